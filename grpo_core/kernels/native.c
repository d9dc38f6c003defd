/* Passes over bfloat16 tensors, each in one go: read, compute in float32, round, write.

Built and called by native_build.py and native.py; native.py says what each function computes.
Forward passes round where the chains of torch operations round, so that both agree to the last digit
but for exp. A row, or a block of rows, is one thread's: results do not depend on how many there are.
*/

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

#define EACH(threads) _Pragma("omp parallel for schedule(static) num_threads(threads)")
#define WIDE _Pragma("omp simd")
#define BLOCK 64 /* rows; native.py has the same number */

static inline float wide(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

/* To the nearest, ties to even; not-a-number stays so. */
static inline bf16 narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return x != x ? 0x7fc0 : (bf16)nearest;
}

static inline float rounded(float x) { return wide(narrow(x)); }

static inline float power_of_two(int32_t n) {
    uint32_t bits = (uint32_t)(n + 127) << 23;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

/* exp(x) = 2^n exp(r), |r| <= log(2)/2, by its Taylor series to r^7: within 3e-7 of itself.
   expf of the C library would be called number by number. */
static inline float exponential(float x) {
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float n = rintf(x * 1.44269504f);
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* log(2) in two parts */
    float y = 1.0f / 5040;
    y = y * r + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    int32_t whole = (int32_t)n, half = whole / 2; /* 2^n alone may be out of range */
    return y * power_of_two(half) * power_of_two(whole - half);
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

void rms_norm(const bf16 *x, const bf16 *weight, bf16 *y, float *scale, int64_t rows, int64_t size,
              float eps, int threads) {
    EACH(threads)
    for (int64_t i = 0; i < rows; i++) {
        const bf16 *from = x + i * size;
        bf16 *to = y + i * size;
        float square = 0;
        _Pragma("omp simd reduction(+ : square)")
        for (int64_t j = 0; j < size; j++) square += wide(from[j]) * wide(from[j]);
        float factor = scale[i] = 1.0f / sqrtf(square / size + eps);
        WIDE
        for (int64_t j = 0; j < size; j++)
            to[j] = narrow(wide(weight[j]) * rounded(wide(from[j]) * factor));
    }
}

/* weight_sums: [blocks of rows, size] shares of the weight's gradient. */
void rms_norm_backward(const bf16 *grad, const bf16 *x, const bf16 *weight, const float *scale,
                       bf16 *grad_x, float *weight_sums, int64_t rows, int64_t size, int threads) {
    int64_t blocks = (rows + BLOCK - 1) / BLOCK;
    EACH(threads)
    for (int64_t block = 0; block < blocks; block++) {
        float *sums = weight_sums + block * size;
        int64_t end = (block + 1) * BLOCK < rows ? (block + 1) * BLOCK : rows;
        memset(sums, 0, size * sizeof(float));
        for (int64_t i = block * BLOCK; i < end; i++) {
            const bf16 *from = x + i * size, *dy = grad + i * size;
            bf16 *to = grad_x + i * size;
            float factor = scale[i], share = 0;
            _Pragma("omp simd reduction(+ : share)")
            for (int64_t j = 0; j < size; j++) {
                float product = wide(from[j]) * factor * wide(dy[j]);
                sums[j] += product;
                share += product * wide(weight[j]);
            }
            share /= size;
            WIDE
            for (int64_t j = 0; j < size; j++) {
                float inner = wide(dy[j]) * wide(weight[j]);
                to[j] = narrow((inner - wide(from[j]) * factor * share) * factor);
            }
        }
    }
}

void swiglu(const bf16 *gate, const bf16 *up, bf16 *y, int64_t rows, int64_t size, int threads) {
    EACH(threads)
    for (int64_t i = 0; i < rows; i++) {
        WIDE
        for (int64_t j = i * size; j < (i + 1) * size; j++) {
            float g = wide(gate[j]);
            y[j] = narrow(rounded(g * sigmoid(g)) * wide(up[j]));
        }
    }
}

void swiglu_backward(const bf16 *grad, const bf16 *gate, const bf16 *up, bf16 *grad_gate,
                     bf16 *grad_up, int64_t rows, int64_t size, int threads) {
    EACH(threads)
    for (int64_t i = 0; i < rows; i++) {
        WIDE
        for (int64_t j = i * size; j < (i + 1) * size; j++) {
            float g = wide(gate[j]), dy = wide(grad[j]), s = sigmoid(g);
            grad_up[j] = narrow(dy * g * s);
            grad_gate[j] = narrow(dy * wide(up[j]) * s * (1.0f + g * (1.0f - s)));
        }
    }
}

/* sign -1 turns the other way. */
void rotate(const bf16 *x, const bf16 *cosine, const bf16 *sine, bf16 *y, int64_t rows,
            int64_t heads, int64_t size, float sign, int threads) {
    int64_t half = size / 2;
    EACH(threads)
    for (int64_t i = 0; i < rows; i++) {
        const bf16 *c = cosine + i * size, *s = sine + i * size;
        for (int64_t head = i * heads; head < (i + 1) * heads; head++) {
            const bf16 *from = x + head * size;
            bf16 *to = y + head * size;
            WIDE
            for (int64_t j = 0; j < half; j++) {
                float a = wide(from[j]), b = wide(from[j + half]), t = sign * wide(s[j]);
                to[j] = narrow(rounded(a * wide(c[j])) - b * t);
                to[j + half] = narrow(rounded(b * wide(c[j + half])) + a * t);
            }
        }
    }
}

/* grad_weights NULL: the weights themselves; else weights * (grad_weights - shift).
   Rows are heads x segments x queries x per_kv; orders are [segments, keys], [segments, queries]. */
void attention_weights(const bf16 *scores, const int64_t *key_order, const int64_t *query_order,
                       const float *log_sums, const bf16 *grad_weights, const float *shift,
                       bf16 *y, int64_t rows, int64_t segments, int64_t queries, int64_t per_kv,
                       int64_t keys, float scaling, int threads) {
    EACH(threads)
    for (int64_t row = 0; row < rows; row++) {
        int64_t query = row / per_kv % (segments * queries);
        const int64_t *order = key_order + query / queries * keys;
        int64_t last = query_order[query];
        float log_sum = log_sums[row];
        const bf16 *from = scores + row * keys;
        bf16 *to = y + row * keys;
        if (grad_weights) {
            const bf16 *grad = grad_weights + row * keys;
            float less = shift[row];
            WIDE
            for (int64_t k = 0; k < keys; k++) {
                float weight = exponential(wide(from[k]) * scaling - log_sum);
                to[k] = order[k] <= last ? narrow(weight * (wide(grad[k]) - less)) : 0;
            }
        } else {
            WIDE
            for (int64_t k = 0; k < keys; k++) {
                float weight = exponential(wide(from[k]) * scaling - log_sum);
                to[k] = order[k] <= last ? narrow(weight) : 0;
            }
        }
    }
}
