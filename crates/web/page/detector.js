"use strict";

// What stands in for the service: the detector itself, in a worker. Nothing leaves the browser.
window.backend = (() => {
  let worker = null, ready = null, number = 0;
  const waiting = new Map();

  function start() {
    worker?.terminate();
    worker = new Worker("worker.js", { type: "module" });
    ready = new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => {
        if ("number" in data) settle(data);
        else if (data.failure) reject(new Error(data.failure));
        else resolve(data.classes);
      };
      worker.onerror = () => reject(new Error("The detector cannot be loaded."));
    });
    ready.catch(() => {});
  }

  function settle(data) {
    const { resolve, reject } = waiting.get(data.number);
    waiting.delete(data.number);
    if (data.broken) {
      waiting.forEach(({ reject }) => reject(new Error("another image stopped the detector")));
      waiting.clear();
      start();
    }
    if (data.failure) reject(new Error(data.failure));
    else resolve(data);
  }

  async function about() {
    if (location.protocol === "file:") {
      throw new Error("Browsers load a detector from a server only: `python3 -m http.server` in this folder makes one.");
    }
    const response = await fetch("about.json");
    return response.json();
  }

  const loaded = about();
  loaded.then(start, () => {});

  return {
    async health() {
      const told = await loaded;
      await ready;
      return { ...told, max_body_bytes: 2 ** 28 };
    },
    async detect(file) {
      const { classes } = await loaded;
      await ready;
      const content = new Uint8Array(await file.arrayBuffer());
      const found = await new Promise((resolve, reject) => {
        waiting.set(++number, { resolve, reject });
        worker.postMessage({ number, content }, [content.buffer]);
      });
      const { rows, width, height, milliseconds } = found;
      const detections = [];
      for (let start = 0; start < rows.length; start += 6) {
        const [label, score, x1, y1, x2, y2] = rows.subarray(start, start + 6);
        const { category, name } = classes[label];
        detections.push({ category_id: category, name, score, bbox: [x1, y1, x2 - x1, y2 - y1] });
      }
      return { width, height, detections, milliseconds };
    },
  };
})();

// ---- The camera ----

document.addEventListener("DOMContentLoaded", () => {
  if (!navigator.mediaDevices?.getUserMedia) return;
  const button = create("button", { type: "button", id: "camera", textContent: "Use the camera" });
  const video = create("video", { playsInline: true, muted: true, hidden: true });
  video.style.cssText = "display: block; width: 100%; margin-top: 12px; border-radius: 6px;";
  button.style.cssText = "display: block; margin: 12px auto 0;";
  element("drop").after(button, video);

  let stream = null;
  button.addEventListener("click", async () => {
    if (stream) {
      await takePhoto(video);
      stream.getTracks().forEach((track) => track.stop());
      stream = video.srcObject = null;
      video.hidden = true;
      button.textContent = "Use the camera";
      return;
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      showError(`The camera cannot be used: ${error.message}`);
      return;
    }
    video.srcObject = stream;
    video.hidden = false;
    await video.play();
    button.textContent = "Take the photo";
  });
});

async function takePhoto(video) {
  const canvas = create("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  const content = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  look([new File([content], "camera.png", { type: "image/png" })]);
}
