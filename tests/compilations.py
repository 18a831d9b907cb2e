"""How many programs JAX compiles."""

import contextlib

import jax

# Part of the keys of JAX's caches in memory: under a value that none has seen, what was
# compiled before is traced and compiled once more (or found in the cache on disk).
_first_call = jax.make_user_context(None)


@contextlib.contextmanager
def compilations():
    """A list that gets an entry, its seconds, for each program compiled in the block. Calls
    count as first ones there, whatever ran before; nobody else's programs are forgotten.
    """
    programs = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            programs.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with _first_call(object()):
            yield programs
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
