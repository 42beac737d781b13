// Clients of npm for a page of another site: bundled by esbuild, since browsers do not load packages by their names.
// `uploadBy[client](settings)` uploads the file that `#file` has, and resolves with the URL of the upload.
import Uppy from "@uppy/core";
import Tus from "@uppy/tus";
import * as tus from "tus-js-client";

// For 10 s: a busy daemon holds an upload until it has written what came before a cut.
const retryDelays = Array(100).fill(100);
const chosen = () => document.getElementById("file").files[0];

function byTusClient({ endpoint, chunkSize }) {
  return new Promise((resolve, reject) => {
    const onSuccess = () => resolve(upload.url);
    const upload = new tus.Upload(chosen(), { endpoint, chunkSize, retryDelays, onError: reject, onSuccess });
    upload.start();
  });
}

async function byUppy({ endpoint, chunkSize }) {
  const uppy = new Uppy().use(Tus, { endpoint, chunkSize, retryDelays });
  uppy.addFile({ name: chosen().name, data: chosen() });
  const { successful, failed } = await uppy.upload();
  if (failed.length) throw failed[0].error;
  return successful[0].uploadURL;
}

window.uploadBy = { "tus-js-client": byTusClient, uppy: byUppy };
