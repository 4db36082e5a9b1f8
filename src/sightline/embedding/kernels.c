/* What lies between the matrix products of a transformer, in bfloat16, and products in int8, on CPUs with AVX-512 BF16 and VNNI. Built
 * and called by native.py.
 *
 * torch's own attention kernel is made for long texts: on texts of a few hundred tokens it reaches a quarter of the rate of the
 * products around it. Here keys and values of one text and head are laid out for `vdpbf16ps` once, a tile of queries stays in
 * registers, and softmax works on scores in the first-level cache. Products are exact in float32, so are sums.
 *
 * All tensors are rows of tokens; strides are in elements. Nothing is read or written beyond the rows that are named.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum {
    QUERIES = 12, /* rows of a tile: 2 x 12, 4 x 6 or 8 x 3 accumulators fill the registers */
    KEYS = 512,   /* keys whose scores are held at a time */
    LANES = 16,
};

INLINE __m512 load_bf16(const bf16 *from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
}

INLINE void store_bf16(bf16 *to, __m512 values) { _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(values)); }

/* 2^x for x <= 0: a polynomial on [-1/2, 1/2], 2e-7 off at most. */
INLINE __m512 exp2_negative(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-126.0f));
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 part = _mm512_sub_ps(x, whole);
    __m512 sum = _mm512_set1_ps(1.33978035e-3f);
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(9.67010157e-3f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(5.55040412e-2f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(2.40226502e-1f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(6.93147182e-1f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(sum, whole);
}

/* ---- attention -------------------------------------------------------------------------------------------------------------- */

/* Keys `at` .. `at + count`, 16 side by side, each by pairs of features: to[key / 16][feature / 2][key % 16]. */
static void pack_keys(const bf16 *keys, long stride, int count, int width, uint32_t *to, int at) {
    int key = 0;
    if (at % LANES == 0) { /* whole blocks: 16 x 16 pairs turned around in registers, in four steps of halves */
        for (; key + LANES <= count; key += LANES)
            for (int pair = 0; pair < width / 2; pair += LANES) {
                const uint32_t *from = (const uint32_t *)(keys + key * stride) + pair;
                __m512i r[LANES], t[LANES];
                UNROLL for (int i = 0; i < LANES; i++) r[i] = _mm512_loadu_si512(from + i * stride / 2);
                UNROLL for (int i = 0; i < LANES; i += 2) {
                    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
                    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
                }
                UNROLL for (int i = 0; i < LANES; i += 4) {
                    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
                    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
                    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
                    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
                }
                UNROLL for (int i = 0; i < 4; i++) {
                    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
                    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
                    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
                    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
                }
                uint32_t *block = to + ((long)((at + key) / LANES) * (width / 2) + pair) * LANES;
                UNROLL for (int i = 0; i < 8; i++) {
                    _mm512_storeu_si512(block + i * LANES, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
                    _mm512_storeu_si512(block + (i + 8) * LANES, _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
                }
            }
    }
    for (; key < count; key++) {
        const uint32_t *row = (const uint32_t *)(keys + key * stride);
        uint32_t *column = to + (long)((at + key) / LANES) * (width / 2) * LANES + (at + key) % LANES;
        for (int pair = 0; pair < width / 2; pair++) column[pair * LANES] = row[pair];
    }
}

/* Values `at` .. `at + count`, two rows interleaved: to[row / 2][feature][row % 2]. */
static void pack_values(const bf16 *values, long stride, int count, int width, bf16 *to, int at) {
    int row = 0;
    for (; row < count && (at + row) % 2; row++) /* the second half of a pair that something else began */
        for (int feature = 0; feature < width; feature++)
            to[(long)((at + row) / 2) * width * 2 + 2 * feature + 1] = values[row * stride + feature];
    for (; row < count; row += 2) {
        const bf16 *first = values + row * stride, *second = first + stride;
        bf16 *pair = to + (long)((at + row) / 2) * width * 2;
        for (int feature = 0; feature < width; feature += LANES) {
            __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(first + feature))), high = _mm512_setzero_si512();
            if (row + 1 < count) high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(second + feature)));
            _mm512_storeu_si512(pair + 2 * feature, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }
}

/* Scores of four queries with `blocks` (1 to 4) times 16 keys. */
INLINE void score_tile(int width, int blocks, const bf16 *queries, const uint32_t *keys, float *scores) {
    __m512 sum[4][4];
    UNROLL for (int row = 0; row < 4; row++) UNROLL for (int block = 0; block < blocks; block++) sum[row][block] = _mm512_setzero_ps();
    for (int pair = 0; pair < width / 2; pair++) {
        __m512bh key[4];
        UNROLL for (int block = 0; block < blocks; block++)
            key[block] = (__m512bh)_mm512_loadu_si512(keys + ((long)block * (width / 2) + pair) * LANES);
        UNROLL for (int row = 0; row < 4; row++) {
            __m512bh query = (__m512bh)_mm512_set1_epi32(((const int32_t *)(queries + row * width))[pair]);
            UNROLL for (int block = 0; block < blocks; block++)
                sum[row][block] = _mm512_dpbf16_ps(sum[row][block], key[block], query);
        }
    }
    UNROLL for (int row = 0; row < 4; row++)
        UNROLL for (int block = 0; block < blocks; block++) _mm512_storeu_ps(scores + row * KEYS + block * LANES, sum[row][block]);
}

INLINE void score(int width, const bf16 *queries, const uint32_t *keys, int blocks, float *scores) {
    for (int block = 0; block < blocks; block += 4) {
        const uint32_t *from = keys + (long)block * (width / 2) * LANES;
        for (int row = 0; row < QUERIES; row += 4) {
            const bf16 *four = queries + row * width;
            float *to = scores + row * KEYS + block * LANES;
            switch (blocks - block) {
            case 1: score_tile(width, 1, four, from, to); break;
            case 2: score_tile(width, 2, four, from, to); break;
            case 3: score_tile(width, 3, four, from, to); break;
            default: score_tile(width, 4, four, from, to);
            }
        }
    }
}

/* mixed = mixed * kept + weights x values, for ROWS x VECTORS accumulators in registers. A macro, because the compiler keeps an
 * array in registers only where its size is a literal. */
#define MIX(NAME, VECTORS, ROWS)                                                                                                  \
    static void NAME(const bf16 *weights, const uint32_t *values, int pairs, const float *kept, float *mixed) {                   \
        for (int top = 0; top < QUERIES; top += ROWS) {                                                                           \
            __m512 sum[ROWS][VECTORS];                                                                                            \
            UNROLL for (int row = 0; row < ROWS; row++) UNROLL for (int vector = 0; vector < VECTORS; vector++)                   \
                sum[row][vector] = _mm512_mul_ps(_mm512_loadu_ps(mixed + ((top + row) * VECTORS + vector) * LANES),               \
                                                 _mm512_set1_ps(kept[top + row]));                                                \
            for (int pair = 0; pair < pairs; pair++) {                                                                            \
                const uint32_t *value = values + (long)pair * VECTORS * LANES;                                                    \
                UNROLL for (int row = 0; row < ROWS; row++) {                                                                     \
                    __m512bh weight = (__m512bh)_mm512_set1_epi32(((const int32_t *)(weights + (top + row) * KEYS))[pair]);       \
                    UNROLL for (int vector = 0; vector < VECTORS; vector++)                                                       \
                        sum[row][vector] = _mm512_dpbf16_ps(                                                                      \
                            sum[row][vector], (__m512bh)_mm512_loadu_si512(value + vector * LANES), weight);                      \
                }                                                                                                                 \
            }                                                                                                                     \
            UNROLL for (int row = 0; row < ROWS; row++) UNROLL for (int vector = 0; vector < VECTORS; vector++)                   \
                _mm512_storeu_ps(mixed + ((top + row) * VECTORS + vector) * LANES, sum[row][vector]);                             \
        }                                                                                                                         \
    }
MIX(mix_32, 2, 12)
MIX(mix_64, 4, 6)
MIX(mix_96, 6, 4)
MIX(mix_128, 8, 3)

/* One row's scores of keys [first, last) become weights; what lies outside is 0. Returns what sums so far must be scaled by. */
INLINE float weigh(const float *scores, bf16 *weights, int first, int last, int blocks, float factor, float *top, float *total) {
    memset(weights, 0, (size_t)blocks * LANES * sizeof(bf16));
    if (first >= last) return 1.0f;
    int begin = first / LANES, end = (last - 1) / LANES;
    __mmask16 head = (__mmask16)(0xffff << first % LANES), tail = (__mmask16)(0xffff >> (LANES - 1 - (last - 1) % LANES));
    __m512 most = _mm512_set1_ps(-INFINITY);
    for (int block = begin; block <= end; block++) {
        __mmask16 seen = (block == begin ? head : 0xffff) & (block == end ? tail : 0xffff);
        most = _mm512_mask_max_ps(most, seen, most, _mm512_loadu_ps(scores + block * LANES));
    }
    float highest = _mm512_reduce_max_ps(most), before = *top;
    *top = highest > before ? highest : before;
    float kept = before == -INFINITY ? 0.0f : exp2f((before - *top) * factor);
    __m512 shift = _mm512_set1_ps(-*top * factor), times = _mm512_set1_ps(factor), sum = _mm512_setzero_ps();
    for (int block = begin; block <= end; block++) {
        __mmask16 seen = (block == begin ? head : 0xffff) & (block == end ? tail : 0xffff);
        __m512 weight = exp2_negative(_mm512_fmadd_ps(_mm512_loadu_ps(scores + block * LANES), times, shift));
        weight = _mm512_maskz_mov_ps(seen, weight);
        sum = _mm512_add_ps(sum, weight);
        store_bf16(weights + block * LANES, weight);
    }
    *total = *total * kept + _mm512_reduce_add_ps(sum);
    return kept;
}

/* What the attention of one text and one head of keys needs to know. `before` keys of a prefix come first. */
typedef struct {
    const bf16 *query, *key, *value, *prefix_key, *prefix_value;
    bf16 *out;
    long query_stride, key_stride, value_stride, prefix_stride, out_stride, query_head_stride;
    int length, before, group, causal, window;
    float factor;
} Head;

INLINE void attend_head(int width, const Head *head, void *scratch) {
    int num_keys = head->before + head->length, blocks = (num_keys + LANES - 1) / LANES;
    uint32_t *keys = scratch;
    bf16 *values = (bf16 *)(keys + (long)blocks * LANES * width / 2);
    memset(keys + (long)(blocks - 1) * LANES * width / 2, 0, LANES * width / 2 * sizeof(uint32_t));
    memset(values + (long)(blocks - 1) * LANES * width, 0, LANES * width * sizeof(bf16));
    pack_keys(head->prefix_key, head->prefix_stride, head->before, width, keys, 0);
    pack_keys(head->key, head->key_stride, head->length, width, keys, head->before);
    pack_values(head->prefix_value, head->prefix_stride, head->before, width, values, 0);
    pack_values(head->value, head->value_stride, head->length, width, values, head->before);
    float scores[QUERIES * KEYS] __attribute__((aligned(64))), mixed[QUERIES * 128] __attribute__((aligned(64)));
    bf16 weights[QUERIES * KEYS] __attribute__((aligned(64))), queries[QUERIES * 128] __attribute__((aligned(64)));
    float top[QUERIES], total[QUERIES], kept[QUERIES];
    for (int member = 0; member < head->group; member++)
        for (int start = 0; start < head->length; start += QUERIES) {
            int rows = head->length - start < QUERIES ? head->length - start : QUERIES;
            for (int row = 0; row < QUERIES; row++) { /* a tile is always full: the last row stands for those that aren't there */
                const bf16 *from = head->query + (long)(start + (row < rows ? row : rows - 1)) * head->query_stride;
                memcpy(queries + row * width, from + member * head->query_head_stride, width * sizeof(bf16));
                top[row] = -INFINITY, total[row] = 0;
            }
            memset(mixed, 0, sizeof mixed);
            int place = head->before + start, reach = head->window ? head->window : num_keys;
            int first = place - reach + 1 > 0 ? (place - reach + 1) / LANES * LANES : 0;
            int last = place + rows - 1 + (head->causal ? 1 : reach) < num_keys ? place + rows - 1 + (head->causal ? 1 : reach) : num_keys;
            for (int from = first; from < last; from += KEYS) {
                int count = last - from < KEYS ? last - from : KEYS, held = (count + LANES - 1) / LANES;
                score(width, queries, keys + (long)from * width / 2, held, scores);
                for (int row = 0; row < QUERIES; row++) {
                    int own = place + (row < rows ? row : rows - 1);
                    int low = own - reach + 1 - from, high = (head->causal ? own + 1 : own + reach) - from;
                    kept[row] = weigh(scores + row * KEYS, weights + row * KEYS, low > 0 ? low : 0, high < count ? high : count, held,
                                      head->factor, &top[row], &total[row]);
                }
                const uint32_t *pairs = (const uint32_t *)values + (long)from / 2 * width;
                switch (width) {
                case 32: mix_32(weights, pairs, (count + 1) / 2, kept, mixed); break;
                case 64: mix_64(weights, pairs, (count + 1) / 2, kept, mixed); break;
                case 96: mix_96(weights, pairs, (count + 1) / 2, kept, mixed); break;
                default: mix_128(weights, pairs, (count + 1) / 2, kept, mixed);
                }
            }
            for (int row = 0; row < rows; row++) {
                __m512 share = _mm512_set1_ps(1.0f / total[row]);
                bf16 *to = head->out + (long)(start + row) * head->out_stride + member * width;
                for (int feature = 0; feature < width; feature += LANES)
                    store_bf16(to + feature, _mm512_mul_ps(_mm512_loadu_ps(mixed + row * width + feature), share));
            }
        }
}

/* Attention of packed texts; text t has rows lengths[t] .. lengths[t + 1]. Prefix rows (before > 0) are seen by every text and lie in
 * front of it; they are contiguous heads of `width` features, like `out`. window 0 is none. Returns 0, or 1 when memory is short. */
int attend(const bf16 *query, const bf16 *key, const bf16 *value, bf16 *out, const bf16 *prefix_key, const bf16 *prefix_value,
           const int32_t *starts, const long *strides, int texts, int heads, int kv_heads, int width, int before, int causal, int window,
           float scale, int threads) {
    int longest = 0, group = heads / kv_heads, failed = 0;
    for (int text = 0; text < texts; text++) longest = starts[text + 1] - starts[text] > longest ? starts[text + 1] - starts[text] : longest;
    size_t bytes = (size_t)((before + longest + LANES - 1) / LANES * LANES) * width * 4;
#pragma omp parallel num_threads(threads)
    {
        void *scratch = aligned_alloc(64, bytes);
        if (!scratch) failed = 1;
#pragma omp for schedule(dynamic) collapse(2)
        for (int text = 0; text < texts; text++)
            for (int at = 0; at < kv_heads; at++) {
                if (!scratch || starts[text + 1] == starts[text]) continue;
                long row = starts[text];
                Head head = {
                    .query = query + row * strides[0] + at * group * strides[3],
                    .key = key + row * strides[1] + at * strides[4],
                    .value = value + row * strides[2] + at * strides[5],
                    .prefix_key = prefix_key + (long)at * width,
                    .prefix_value = prefix_value + (long)at * width,
                    .out = out + row * heads * width + (long)at * group * width,
                    .query_stride = strides[0], .key_stride = strides[1], .value_stride = strides[2],
                    .prefix_stride = (long)kv_heads * width, .out_stride = (long)heads * width, .query_head_stride = strides[3],
                    .length = starts[text + 1] - starts[text], .before = before, .group = group, .causal = causal, .window = window,
                    .factor = scale * 1.44269504f,
                };
                switch (width) {
                case 32: attend_head(32, &head, scratch); break;
                case 64: attend_head(64, &head, scratch); break;
                case 96: attend_head(96, &head, scratch); break;
                default: attend_head(128, &head, scratch);
                }
            }
        free(scratch);
    }
    return failed;
}

/* ---- norms, rotary positions, gates ----------------------------------------------------------------------------------------- */

INLINE float square_sum(const bf16 *row, int width) {
    __m512 sum = _mm512_setzero_ps();
    for (int at = 0; at < width; at += LANES) sum = _mm512_fmadd_ps(load_bf16(row + at), load_bf16(row + at), sum);
    return _mm512_reduce_add_ps(sum);
}

/* total = rows + residual (left out where residual is null: then total may be null too); out = rms_norm(total) * weight.
 * `width` is a multiple of 16. The norm is of the rounded sum, as the sum goes on. */
void add_and_rms_norm(const bf16 *rows, const bf16 *residual, const bf16 *weight, bf16 *total, bf16 *out, int count, int width,
                      float epsilon, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int row = 0; row < count; row++) {
        const bf16 *from = rows + (long)row * width;
        if (residual) {
            bf16 *sum = total + (long)row * width;
            for (int at = 0; at < width; at += LANES)
                store_bf16(sum + at, _mm512_add_ps(load_bf16(from + at), load_bf16(residual + (long)row * width + at)));
            from = sum;
        }
        __m512 scale = _mm512_set1_ps(1.0f / sqrtf(square_sum(from, width) / width + epsilon));
        for (int at = 0; at < width; at += LANES)
            store_bf16(out + (long)row * width + at, _mm512_mul_ps(_mm512_mul_ps(load_bf16(from + at), scale), load_bf16(weight + at)));
    }
}

/* out = layer_norm(rows + residual) * weight + bias; `width` is a multiple of 16, at most 4,096. */
void add_and_layer_norm(const bf16 *rows, const bf16 *residual, const bf16 *weight, const bf16 *bias, bf16 *out, int count, int width,
                        float epsilon, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int row = 0; row < count; row++) {
        float held[4096] __attribute__((aligned(64)));
        __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
        for (int at = 0; at < width; at += LANES) {
            __m512 both = _mm512_add_ps(load_bf16(rows + (long)row * width + at), load_bf16(residual + (long)row * width + at));
            _mm512_store_ps(held + at, both);
            sum = _mm512_add_ps(sum, both);
        }
        __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / width);
        for (int at = 0; at < width; at += LANES) {
            __m512 off = _mm512_sub_ps(_mm512_load_ps(held + at), mean);
            squares = _mm512_fmadd_ps(off, off, squares);
        }
        __m512 scale = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(squares) / width + epsilon));
        for (int at = 0; at < width; at += LANES) {
            __m512 normed = _mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(held + at), mean), scale);
            store_bf16(out + (long)row * width + at, _mm512_fmadd_ps(normed, load_bf16(weight + at), load_bf16(bias + at)));
        }
    }
}

/* In place: each head of `rows` is normed, weighted and rotated to its token's position. cosine and sine are (positions, width / 2).
 * `width` is a multiple of 32; the first `heads` heads have the query's weight, `kv_heads` more the key's. */
void norm_and_rotate(bf16 *rows, const bf16 *query_weight, const bf16 *key_weight, const float *cosine, const float *sine,
                     const int64_t *positions, int count, long stride, int heads, int kv_heads, int width, float epsilon, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int row = 0; row < count; row++) {
        const float *c = cosine + positions[row] * (width / 2), *s = sine + positions[row] * (width / 2);
        for (int head = 0; head < heads + kv_heads; head++) {
            bf16 *low = rows + row * stride + head * width, *high = low + width / 2;
            const bf16 *weight = head < heads ? query_weight : key_weight;
            __m512 scale = _mm512_set1_ps(1.0f / sqrtf(square_sum(low, width) / width + epsilon));
            for (int at = 0; at < width / 2; at += LANES) {
                __m512 a = _mm512_mul_ps(_mm512_mul_ps(load_bf16(low + at), scale), load_bf16(weight + at));
                __m512 b = _mm512_mul_ps(_mm512_mul_ps(load_bf16(high + at), scale), load_bf16(weight + width / 2 + at));
                __m512 cosines = _mm512_loadu_ps(c + at), sines = _mm512_loadu_ps(s + at);
                store_bf16(low + at, _mm512_fmsub_ps(a, cosines, _mm512_mul_ps(b, sines)));
                store_bf16(high + at, _mm512_fmadd_ps(b, cosines, _mm512_mul_ps(a, sines)));
            }
        }
    }
}

/* out = silu(gate) * up of rows (gate | up), each `width` wide, a multiple of 16. */
void silu_and_multiply(const bf16 *rows, bf16 *out, int count, int width, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int row = 0; row < count; row++) {
        const bf16 *gates = rows + (long)row * 2 * width, *ups = gates + width;
        for (int at = 0; at < width; at += LANES) {
            __m512 gate = load_bf16(gates + at), one = _mm512_set1_ps(1.0f);
            /* silu(x) = x / (1 + e^-x); by |x|, so that the exponent is never positive */
            __m512 small = exp2_negative(_mm512_mul_ps(_mm512_abs_ps(gate), _mm512_set1_ps(-1.44269504f)));
            __mmask16 positive = _mm512_cmp_ps_mask(gate, _mm512_setzero_ps(), _CMP_GE_OQ);
            __m512 share = _mm512_div_ps(_mm512_mask_mov_ps(small, positive, one), _mm512_add_ps(one, small));
            store_bf16(out + (long)row * width + at, _mm512_mul_ps(_mm512_mul_ps(gate, share), load_bf16(ups + at)));
        }
    }
}

/* gelu(x) = x/2 (1 + erf(x / sqrt 2)), erf by Abramowitz and Stegun 7.1.26: 1.5e-7 off at most. */
INLINE __m512 gelu(__m512 x) {
    __m512 z = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.70710678f));
    __m512 t = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), _mm512_set1_ps(1.0f)));
    __m512 sum = _mm512_set1_ps(1.061405429f);
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-1.453152027f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(1.421413741f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-0.284496736f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.254829592f));
    __m512 tail = exp2_negative(_mm512_mul_ps(_mm512_mul_ps(z, z), _mm512_set1_ps(-1.44269504f)));
    __m512 off = _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(sum, t), tail), _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.5f)));
    return _mm512_sub_ps(_mm512_max_ps(x, _mm512_setzero_ps()), off);
}

/* ---- products in int8 ------------------------------------------------------------------------------------------------------- */

enum {
    BLOCK_ROWS = 96, /* rows that are quantised together and stay in the second-level cache */
    TILE_ROWS = 6,   /* 6 x 4 accumulators fill the registers */
    PANEL = 64,      /* columns of a tile */
};

/* A row as unsigned bytes: value = (byte - zero) * scale. NaN and infinity make the scale NaN. */
typedef struct {
    float scale;
    int zero;
} Grid;

INLINE Grid quantize(const bf16 *from, int width, uint8_t *to) {
    __m512 low = _mm512_setzero_ps(), high = _mm512_setzero_ps(), nothing = _mm512_setzero_ps();
    for (int at = 0; at < width; at += LANES) {
        __m512 value = load_bf16(from + at);
        low = _mm512_min_ps(low, value);
        high = _mm512_max_ps(high, value);
        nothing = _mm512_fmadd_ps(value, _mm512_setzero_ps(), nothing);
    }
    if (_mm512_reduce_add_ps(nothing) != 0.0f) return (Grid){NAN, 0};
    float least = _mm512_reduce_min_ps(low), range = _mm512_reduce_max_ps(high) - least, scale = range > 0 ? range / 255.0f : 1.0f;
    int zero = (int)lrintf(-least / scale);
    __m512 times = _mm512_set1_ps(1.0f / scale);
    for (int at = 0; at < width; at += LANES) {
        __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(load_bf16(from + at), times)), _mm512_set1_epi32(zero));
        whole = _mm512_max_epi32(whole, _mm512_setzero_si512()); /* rounding may lead one beyond either end */
        _mm_storeu_si128((__m128i *)(to + at), _mm512_cvtusepi32_epi8(whole));
    }
    return (Grid){scale, zero};
}

/* The instruction is written out, because gcc 12 copies the accumulators of its intrinsic to memory and back, at half the rate. */
#define DOT(SUM, VALUE, WEIGHT) asm("vpdpbusd %2, %1, %0" : "+v"(SUM) : "v"(VALUE), "v"(WEIGHT))

INLINE void product_tile(int tile, const uint8_t *rows, int depth, const int8_t *panel, const Grid *grids, const float *panel_scales,
                         const int32_t *sums, const float *bias, bf16 *out, long stride, int activation) {
    __m512i sum[TILE_ROWS][4];
    UNROLL for (int row = 0; row < tile; row++)
        UNROLL for (int vector = 0; vector < 4; vector++) sum[row][vector] = _mm512_setzero_si512();
    for (int four = 0; four < depth / 4; four++) {
        __m512i weight[4];
        UNROLL for (int vector = 0; vector < 4; vector++) weight[vector] = _mm512_loadu_si512(panel + (long)four * PANEL * 4 + vector * 64);
        UNROLL for (int row = 0; row < tile; row++) {
            __m512i value = _mm512_set1_epi32(((const int32_t *)(rows + (long)row * depth))[four]);
            UNROLL for (int vector = 0; vector < 4; vector++) DOT(sum[row][vector], value, weight[vector]);
        }
    }
    UNROLL for (int row = 0; row < tile; row++)
        UNROLL for (int vector = 0; vector < 4; vector++) {
            __m512i offset = _mm512_mullo_epi32(_mm512_set1_epi32(grids[row].zero), _mm512_loadu_si512(sums + vector * LANES));
            __m512 scale = _mm512_mul_ps(_mm512_set1_ps(grids[row].scale), _mm512_loadu_ps(panel_scales + vector * LANES));
            __m512 result = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum[row][vector], offset)), scale, _mm512_loadu_ps(bias + vector * LANES));
            store_bf16(out + row * stride + vector * LANES, activation ? gelu(result) : result);
        }
}

/* out = rows x weights^T + bias, rows quantised one by one on the way: integers are summed exactly, so a row's result depends on that row
 * alone. weights[column / 64][feature / 4][column % 64][feature % 4] times weight_scales[column]; `sums` are those of each column's
 * weights, for what a row's zero adds to them. `width` is a multiple of 64, `depth` of 16. activation 1 is gelu. */
int linear_int8(const bf16 *rows, const int8_t *weights, const float *weight_scales, const int32_t *sums, const float *bias, bf16 *out,
                int count, int depth, int width, int activation, int threads) {
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        uint8_t *quantized = aligned_alloc(64, (size_t)BLOCK_ROWS * depth);
        Grid grids[BLOCK_ROWS];
        if (!quantized) failed = 1;
#pragma omp for schedule(static)
        for (int start = 0; start < count; start += BLOCK_ROWS) {
            if (!quantized) continue;
            int held = count - start < BLOCK_ROWS ? count - start : BLOCK_ROWS;
            for (int row = 0; row < held; row++) grids[row] = quantize(rows + (long)(start + row) * depth, depth, quantized + (long)row * depth);
            for (int panel = 0; panel < width / PANEL; panel++) {
                const int8_t *weight = weights + (long)panel * PANEL * depth;
                int column = panel * PANEL, row = 0;
                for (; row + TILE_ROWS <= held; row += TILE_ROWS)
                    product_tile(TILE_ROWS, quantized + (long)row * depth, depth, weight, grids + row, weight_scales + column, sums + column,
                                 bias + column, out + (long)(start + row) * width + column, width, activation);
                for (; row < held; row++)
                    product_tile(1, quantized + (long)row * depth, depth, weight, grids + row, weight_scales + column, sums + column,
                                 bias + column, out + (long)(start + row) * width + column, width, activation);
            }
        }
        free(quantized);
    }
    return failed;
}
