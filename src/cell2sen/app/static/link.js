// Link to Python: one frame format, over HTTP in a page or over messages in a notebook.
// Both have ask(verb, body, arrays), follow(job, listener), cancel(job).

const ARRAY_TYPES = {
  uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array, int32: Int32Array,
  uint32: Uint32Array, float32: Float32Array, float64: Float64Array,
};

const padding = (size) => (8 - (size % 8)) % 8;

// A frame: uint32 length of the JSON, JSON, arrays, each padded to 8 bytes.
export function packFrame(values, arrays = {}) {
  const listed = Object.entries(arrays).map(([name, array]) => ({
    name, dtype: Object.keys(ARRAY_TYPES).find((key) => array instanceof ARRAY_TYPES[key]), length: array.length,
  }));
  let head = new TextEncoder().encode(JSON.stringify({ values, arrays: listed }));
  const headSize = head.length + padding(4 + head.length);
  let size = 4 + headSize;
  for (const array of Object.values(arrays)) size += array.byteLength + padding(array.byteLength);
  const bytes = new Uint8Array(size).fill(32, 4 + head.length, 4 + headSize);
  new DataView(bytes.buffer).setUint32(0, headSize, true);
  bytes.set(head, 4);
  let at = 4 + headSize;
  for (const array of Object.values(arrays)) {
    bytes.set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), at);
    at += array.byteLength + padding(array.byteLength);
  }
  return bytes;
}

export function unpackFrame(buffer) {
  const size = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  const arrays = {};
  let at = 4 + size;
  for (const { name, dtype, length } of head.arrays) {
    arrays[name] = new ARRAY_TYPES[dtype](buffer, at, length);
    at += arrays[name].byteLength + padding(arrays[name].byteLength);
  }
  return { values: head.values, arrays };
}

// Error of a server that does not answer, or no longer takes the cookie.
export class LostError extends Error {}

export class HttpLink {
  constructor() {
    this.download = "/api/cells.h5ad";
    this.onlost = () => {};
  }

  async ask(verb, body = {}, arrays = {}) {
    let response;
    let content;
    try {
      response = await fetch("/api/ask", { method: "POST", body: packFrame({ verb, body }, arrays) });
      content = await response.arrayBuffer();
    } catch (error) {
      this.onlost("gone");
      throw new LostError("the program that shows this page does not answer");
    }
    return this.read(response, content);
  }

  read(response, content) {
    if (response.status === 401) {
      this.onlost("restarted");
      throw new LostError("the program was started again: open the address that it printed");
    }
    if (response.headers.get("content-type") !== "application/octet-stream") {
      throw new Error(new TextDecoder().decode(content) || `the request was refused (${response.status})`);
    }
    const answer = unpackFrame(content);
    if (answer.values.error !== undefined) throw new Error(answer.values.error);
    return answer;
  }

  follow(job, listener) {
    const source = new EventSource(`/api/jobs/${job}/events`);
    source.onmessage = (event) => {
      const status = JSON.parse(event.data);
      if (["done", "failed", "cancelled"].includes(status.state)) source.close();
      listener(status);
    };
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) this.onlost("gone");
    };
  }

  async cancel(job) {
    try {
      const response = await fetch(`/api/jobs/${job}`, { method: "DELETE" });
      return this.read(response, await response.arrayBuffer());
    } catch (error) {
      if (!(error instanceof LostError)) this.onlost("gone");
      throw error;
    }
  }
}

// Messages of anywidget: {id, frame} there, {id} with the answer's frame back, {job: status} for jobs.
export class WidgetLink {
  constructor(model) {
    this.model = model;
    this.download = null;
    this.onlost = () => {};
    this.number = 0;
    this.asked = new Map();
    this.listeners = new Map();
    this.early = new Map();
    this.selected = (rows) => this.ask("select", {}, { rows });
    model.on("msg:custom", (message, buffers) => this.receive(message, buffers));
  }

  receive(message, buffers = []) {
    if (message.status !== undefined) {
      const { job } = message.status;
      if (this.listeners.has(job)) this.listeners.get(job)(message.status);
      else this.early.set(job, message.status);
      return;
    }
    const waiting = this.asked.get(message.id);
    if (waiting === undefined) return;
    this.asked.delete(message.id);
    const view = buffers[0];
    const copy = new Uint8Array(view.buffer ?? view, view.byteOffset ?? 0, view.byteLength).slice().buffer;
    const answer = unpackFrame(copy);
    if (answer.values.error !== undefined) waiting.reject(new Error(answer.values.error));
    else waiting.resolve(answer);
  }

  ask(verb, body = {}, arrays = {}) {
    const id = (this.number += 1);
    return new Promise((resolve, reject) => {
      this.asked.set(id, { resolve, reject });
      this.model.send({ id }, undefined, [packFrame({ verb, body }, arrays).buffer]);
    });
  }

  follow(job, listener) {
    this.listeners.set(job, listener);
    if (this.early.has(job)) listener(this.early.get(job));
    this.early.delete(job);
  }

  cancel(job) {
    return this.ask("cancel", { job });
  }
}
