// Runs agent/kernels/cupy_kernels.cu on a processor, block after block, the threads of a block as threads.

#include <barrier>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#define ON_A_PROCESSOR
#define __global__
#define __device__
#define __shared__ static  // blocks come one after the other

struct Place { unsigned x; };
static thread_local Place threadIdx, blockIdx;
static Place blockDim, gridDim;
static std::barrier<>* together;
static void __syncthreads() { together->arrive_and_wait(); }
static float rsqrtf(float x) { return 1 / std::sqrt(x); }

struct bfloat16 { uint16_t bits; };
static float to_float(float x) { return x; }
static float to_float(bfloat16 x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }
template <typename T> T from_float(float x);
template <> float from_float<float>(float x) { return x; }
template <> bfloat16 from_float<bfloat16>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return {uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};  // to the nearest, ties to even
}

#include "cupy_kernels.cu"

typedef long long number;

static void run(number blocks, number threads, std::function<void()> kernel) {
  blockDim.x = threads, gridDim.x = blocks;
  for (number block = 0; block < blocks; ++block) {
    std::barrier<> barrier(threads);
    together = &barrier;
    std::vector<std::jthread> running;
    for (number thread = 0; thread < threads; ++thread)
      running.emplace_back([&, block, thread] {
        blockIdx.x = block, threadIdx.x = thread;
        kernel();
      });
  }
}

#define C extern "C" void
#define AT number blocks, number threads
#define RUN(call) { run(blocks, threads, [=] { call; }); }
#define EXPORT(T) \
  C add_##T(AT, T* x, T* y, T* out, number n) RUN(add(x, y, out, n)) \
  C activation_##T(AT, T* x, T* out, number n, number kind) RUN(activation(x, out, n, kind)) \
  C gated_##T(AT, T* x, T* out, number n, number w, number kind) RUN(gated(x, out, n, w, kind)) \
  C rms_norm_##T(AT, T* x, T* r, T* w, T* out, number n, float e) RUN(rms_norm(x, r, w, out, n, e)) \
  C rope_##T(AT, T* x, T* t, number* p, T* out, number n, number h, number d, number half) \
    RUN(rope(x, t, p, out, n, h, d, half)) \
  C embedding_##T(AT, T* t, number* ids, T* out, number n, number w) RUN(embedding(t, ids, out, n, w)) \
  C kv_write_##T(AT, T* x, number* s, T* to, number n, number w) RUN(kv_write(x, s, to, n, w))

EXPORT(float)
EXPORT(bfloat16)
