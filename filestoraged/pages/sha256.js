// SHA-256 (FIPS 180-4) of a file, computed in a worker, so that the page never waits for it.
//
// WebCrypto has no incremental hash, and is missing on plain HTTP outside of localhost. So it only gets files that fit
// into memory.

// Bytes that are read at once, whole blocks of 64.
const SLICE = 4 << 20;
// Bytes. The largest file that WebCrypto gets: three transfers have as many in memory.
const WHOLE = 64 << 20;

const primes = [];
for (let n = 2; primes.length < 64; n++) if (primes.every((prime) => n % prime)) primes.push(n);
// The first 32 bits of the fractional part.
const fraction = (x) => ((x - Math.floor(x)) * 2 ** 32) | 0;
const K = Int32Array.from(primes, (prime) => fraction(Math.cbrt(prime)));
const INITIAL = Int32Array.from(primes.slice(0, 8), (prime) => fraction(Math.sqrt(prime)));
const words = new Int32Array(64);

function compress(state, bytes) {
  const view = new DataView(bytes.buffer);
  // Local variables, without destructuring: by the arrays alone it takes three times as long.
  const k = K, w = words;
  let h0 = state[0], h1 = state[1], h2 = state[2], h3 = state[3];
  let h4 = state[4], h5 = state[5], h6 = state[6], h7 = state[7];
  for (let start = 0; start < bytes.length; start += 64) {
    for (let i = 0; i < 16; i++) w[i] = view.getInt32(start + 4 * i);
    for (let i = 16; i < 64; i++) {
      const x = w[i - 15], y = w[i - 2];
      const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
      const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
      w[i] = (w[i - 16] + s0 + w[i - 7] + s1) | 0;
    }
    let a = h0, b = h1, c = h2, d = h3, e = h4, f = h5, g = h6, h = h7;
    for (let i = 0; i < 64; i++) {
      const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
      const t1 = (h + s1 + (g ^ (e & (f ^ g))) + k[i] + w[i]) | 0;
      const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
      const t2 = (s0 + ((a & b) ^ (c & (a ^ b)))) | 0;
      h = g; g = f; f = e; e = (d + t1) | 0; d = c; c = b; b = a; a = (t1 + t2) | 0;
    }
    h0 = (h0 + a) | 0; h1 = (h1 + b) | 0; h2 = (h2 + c) | 0; h3 = (h3 + d) | 0;
    h4 = (h4 + e) | 0; h5 = (h5 + f) | 0; h6 = (h6 + g) | 0; h7 = (h7 + h) | 0;
  }
  state.set([h0, h1, h2, h3, h4, h5, h6, h7]);
}

// The last bytes of a file, filled up to whole blocks (section 5.1.1).
function padded(bytes, size) {
  const blocks = new Uint8Array((bytes.length + 72) & ~63);
  blocks.set(bytes);
  blocks[bytes.length] = 0x80;
  new DataView(blocks.buffer).setBigUint64(blocks.length - 8, BigInt(size) * 8n);
  return blocks;
}

const hex = (numbers, width) => Array.from(numbers, (each) => (each >>> 0).toString(16).padStart(width, "0")).join("");

async function digest(file) {
  if (self.crypto?.subtle && file.size <= WHOLE)
    return hex(new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer())), 2);
  const state = INITIAL.slice();
  for (let start = 0; start <= file.size; start += SLICE) {
    const bytes = new Uint8Array(await file.slice(start, start + SLICE).arrayBuffer());
    compress(state, bytes.length < SLICE ? padded(bytes, file.size) : bytes);
  }
  return hex(state, 8);
}

// Answers a file with its digest, or with null if it cannot be read.
self.onmessage = async ({ data }) => self.postMessage(await digest(data).catch(() => null));
