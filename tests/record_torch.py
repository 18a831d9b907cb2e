"""Evaluates `torch_cases.cases()` with torch 2.13 and writes `torch_kl_div.json`.

    pip install torch==2.13.0 && python tests/record_torch.py

Values, and both gradients of the sum of the values, in float32 and float64.
"""

import json
import pathlib
import warnings

import numpy as np
import torch
from torch_cases import cases

TABLE = pathlib.Path(__file__).with_name("torch_kl_div.json")


def packed(array):
    return {"shape": array.shape, "data": array.astype(float).ravel().tolist()}


def evaluate(x, y, kwargs, dtype):
    """Value and both gradients as torch computes them."""
    x, y = (torch.tensor(a.astype(dtype), requires_grad=True) for a in (x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = torch.nn.functional.kl_div(x, y, **kwargs)
    value.sum().backward()
    return value.detach().numpy(), x.grad.numpy(), y.grad.numpy()


def module_value(x, y, kwargs, dtype):
    x, y = (torch.tensor(a.astype(dtype)) for a in (x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nn.KLDivLoss(**kwargs)(x, y).numpy()


def table():
    for name, x, y, kwargs in cases():
        for dtype in ("float32", "float64"):
            value, grad_input, grad_target = evaluate(x, y, kwargs, dtype)
            yield {
                "name": name,
                "dtype": dtype,
                "kwargs": kwargs,
                "input": packed(x.astype(dtype)),
                "target": packed(y.astype(dtype)),
                "value": packed(value),
                "module": packed(module_value(x, y, kwargs, dtype)),
                "grad_input": packed(grad_input),
                "grad_target": packed(grad_target),
            }


def main():
    records = ",\n".join(json.dumps(record) for record in table())
    header = json.dumps({"torch": torch.__version__, "numpy": np.__version__})
    TABLE.write_text(f'{{"versions": {header}, "cases": [\n{records}\n]}}\n')
    print(f"{TABLE.name}: {records.count(chr(10)) + 1} cases, torch {torch.__version__}")


if __name__ == "__main__":
    main()
