// Element-wise, row and memory kernels in CUDA C, for NVRTC through CuPy. Numbers are computed in float.
//
// Element-wise kernels: one element a thread, in strides of the grid. Row kernels: one row a block, whose
// threads are a power of two, at most MAX_THREADS.

#ifndef ON_A_PROCESSOR
#include <cuda_bf16.h>
#include <cuda_fp16.h>
typedef __nv_bfloat16 bfloat16;
typedef __half float16;
__device__ float to_float(float x) { return x; }
__device__ float to_float(bfloat16 x) { return __bfloat162float(x); }
__device__ float to_float(float16 x) { return __half2float(x); }
template <typename T> __device__ T from_float(float x);
template <> __device__ float from_float<float>(float x) { return x; }
template <> __device__ bfloat16 from_float<bfloat16>(float x) { return __float2bfloat16(x); }
template <> __device__ float16 from_float<float16>(float x) { return __float2half(x); }
#endif

#define MAX_THREADS 1024
#define FOR_EACH(i, count)                                                           \
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < (count);  \
       i += (long long)gridDim.x * blockDim.x)

enum { RELU, SILU, GELU };

__device__ inline float activated(float x, int kind) {
  if (kind == RELU) return x > 0 ? x : 0;
  if (kind == SILU) return x / (1 + expf(-x));
  const float inner = 0.7978845608f * (x + 0.044715f * x * x * x);  // sqrt(2 / pi)
  return 0.5f * x * (1 + tanhf(inner));
}

template <typename T>
__global__ void add(const T* x, const T* y, T* out, long long count) {
  FOR_EACH(i, count) out[i] = from_float<T>(to_float(x[i]) + to_float(y[i]));
}

template <typename T>
__global__ void activation(const T* x, T* out, long long count, long long kind) {
  FOR_EACH(i, count) out[i] = from_float<T>(activated(to_float(x[i]), (int)kind));
}

// x [rows, 2 * width]: the first half of a row is activated and multiplied with the second.
template <typename T>
__global__ void gated(const T* x, T* out, long long rows, long long width, long long kind) {
  FOR_EACH(i, rows * width) {
    const long long row = i / width, column = i % width;
    const T* at = x + row * 2 * width + column;
    out[i] = from_float<T>(activated(to_float(at[0]), (int)kind) * to_float(at[width]));
  }
}

__device__ inline float summed(float mine) {
  __shared__ float parts[MAX_THREADS];
  parts[threadIdx.x] = mine;
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    __syncthreads();
  }
  const float total = parts[0];
  __syncthreads();
  return total;
}

// out = x / sqrt(mean(x^2) + epsilon) * weight, after x += residual where there is one; the sum is kept in residual.
template <typename T>
__global__ void rms_norm(const T* x, T* residual, const T* weight, T* out, long long width, float epsilon) {
  const long long first = (long long)blockIdx.x * width;
  float squares = 0;
  for (long long i = threadIdx.x; i < width; i += blockDim.x) {
    float value = to_float(x[first + i]);
    if (residual) {
      residual[first + i] = from_float<T>(value + to_float(residual[first + i]));
      value = to_float(residual[first + i]);
    }
    squares += value * value;
  }
  const float scale = rsqrtf(summed(squares) / width + epsilon);
  const T* source = residual ? residual : x;
  for (long long i = threadIdx.x; i < width; i += blockDim.x)
    out[first + i] = from_float<T>(to_float(source[first + i]) * scale * to_float(weight[i]));
}

// The first 2 * half numbers of each head turn; table [positions, 2 * half] has cosines, then sines.
template <typename T>
__global__ void rope(const T* x, const T* table, const long long* positions, T* out, long long rows,
                     long long heads, long long head_dim, long long half) {
  FOR_EACH(i, rows * heads * half) {
    const long long pair = i % half, head = i / half, row = head / heads;
    const T* turn = table + positions[row] * 2 * half;
    const float c = to_float(turn[pair]), s = to_float(turn[half + pair]);
    const float a = to_float(x[head * head_dim + pair]), b = to_float(x[head * head_dim + half + pair]);
    out[head * 2 * half + pair] = from_float<T>(a * c - b * s);
    out[head * 2 * half + half + pair] = from_float<T>(b * c + a * s);
  }
}

template <typename T>
__global__ void embedding(const T* table, const long long* ids, T* out, long long rows, long long width) {
  FOR_EACH(i, rows * width) out[i] = table[ids[i / width] * width + i % width];
}

// Rows scattered into the slots of a cache of their own format.
template <typename T>
__global__ void kv_write(const T* rows_in, const long long* slots, T* cache, long long rows, long long width) {
  FOR_EACH(i, rows * width) cache[slots[i / width] * width + i % width] = rows_in[i];
}
