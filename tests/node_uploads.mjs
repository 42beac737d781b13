// Uploads a file by a client of npm: node --input-type=module < node_uploads.mjs, with the settings in UPLOAD as JSON.
// Prints what the server answers for the complete upload.
import { readFileSync, createReadStream } from "node:fs";
import * as tus from "tus-js-client";

const { client, url, path, metadata, chunkSize } = JSON.parse(process.env.UPLOAD);
// For 10 s: a busy daemon holds an upload until it has written what came before a cut.
const retryDelays = Array(100).fill(100);

function byTusClient() {
  return new Promise((resolve, reject) => {
    const upload = new tus.Upload(createReadStream(path), {
      endpoint: url,
      metadata,
      chunkSize,
      retryDelays,
      uploadSize: readFileSync(path).length,
      onError: reject,
      onSuccess: () => resolve(upload.url),
    });
    upload.start();
  });
}

async function byUppy() {
  const { default: Uppy } = await import("@uppy/core");
  const { default: Tus } = await import("@uppy/tus");
  const uppy = new Uppy().use(Tus, { endpoint: url, chunkSize, retryDelays });
  uppy.addFile({ name: "film.mp4", data: readFileSync(path), meta: metadata });
  const { successful, failed } = await uppy.upload();
  if (failed.length) throw failed[0].error;
  return successful[0].uploadURL;
}

const uploaded = await (client === "uppy" ? byUppy() : byTusClient());
process.stdout.write(await (await fetch(uploaded)).text());
