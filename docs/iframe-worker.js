/* A page that was opened from a folder may not start a worker: the search runs in a frame. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.ready = new Promise((resolve) => (frame.onload = resolve));
      document.body.append(frame);
      this.inside = frame.contentWindow;
      this.inside.document.open();
      this.inside.postMessage = (data) =>
        this.dispatchEvent(new MessageEvent("message", { data }));
      this.inside.document.write(`<script src="${url}"></` + "script>");
      this.inside.document.close();
    }
    postMessage(data) {
      const event = () => this.inside.dispatchEvent(new MessageEvent("message", { data }));
      this.ready.then(() => setTimeout(event));
    }
  };
}
