// Loads the detector and detects on photos, beside the page so that it stays quick.
import init, { PageDetector } from "./retinanet_web.js";

const started = start();

async function start() {
  await init();
  const response = await fetch("detector.safetensors");
  if (!response.ok) throw new Error("detector.safetensors is missing.");
  return new PageDetector(new Uint8Array(await response.arrayBuffer()));
}

started.then(
  (detector) => postMessage({ classes: detector.classes() }),
  (error) => postMessage({ failure: text(error) }),
);

onmessage = async ({ data: { number, content } }) => {
  try {
    const detector = await started;
    const arrived = performance.now();
    const found = detector.detectFile(content);
    const { rows, width, height, prepare, network, post } = found;
    found.free();
    const detect = prepare + network + post;
    const milliseconds = { decode: performance.now() - arrived - detect, wait: 0, detect };
    postMessage({ number, rows, width, height, milliseconds });
  } catch (error) {
    // A trap leaves the detector as it was in the middle of something.
    postMessage({ number, failure: text(error), broken: error instanceof WebAssembly.RuntimeError });
  }
};

function text(error) {
  return error instanceof WebAssembly.RuntimeError ? "this image stopped the detector" : error.message ?? String(error);
}
