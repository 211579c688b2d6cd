/* A pass of rows through a stack of attention and feed-forward sublayers, without a return to the
 * caller between them.
 *
 * Norms, rotary embedding, activations and attention are fp32, weight products those of map.h. What
 * a row gives depends on no other document and on no thread count: products are exact integers,
 * and every other sum is in an order that its own document sets.
 *
 * Few rows share each product among the threads. Many rows are cut into tiles that stay in a
 * core's own cache from the norm before a sublayer to the sum after it; only attention, which
 * reads the keys of other tiles, makes the threads wait for each other.
 */
#include <math.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"
#include "pass.h"
#include "threads.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16 };
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec x) { *(vec *)p = x; }
INLINE vec fill(float x) { return x - (vec){0}; }
INLINE vec select(ivec which, vec one, vec other) {
    return (vec)((which & (ivec)one) | (~which & (ivec)other));
}

INLINE float sum(vec x) {
    float at[LANES];
    store(at, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) at[i] += at[i + half];
    return at[0];
}

/* e^x to two units in the last place (Cody and Waite's reduction, polynomial of degree 6). */
INLINE vec exponential(vec x) {
    x = select(x < -87.0f, fill(-87.0f), x);
    x = select(x > 88.0f, fill(88.0f), x);
    vec shifted = x * 1.44269504088896341f + 12582912.0f; /* the low bits are the exponent */
    vec n = shifted - 12582912.0f;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = fill(1.0f / 720);
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return (vec)((ivec)p + ((ivec)shifted << 23));
}

/* erf to 1.5e-7 (Abramowitz and Stegun 1964, formula 7.1.26). */
INLINE vec error_function(vec x) {
    vec size = select(x < 0.0f, -x, x), t = 1.0f / (size * 0.3275911f + 1.0f);
    vec p = fill(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vec found = 1.0f - p * t * exponential(-size * size);
    return select(x < 0.0f, -found, found);
}

/* ------------------------------------------------------------------ row by row */

static CLONES void apply_norm(const lmw_norm *norm, const float *x, float *y, int64_t width) {
    if (norm->kind == LMW_NO_NORM) {
        if (x != y) memcpy(y, x, sizeof(float) * width);
        return;
    }
    int64_t i;
    float mean = 0;
    if (norm->kind == LMW_LAYER_NORM) {
        vec total = fill(0);
        for (i = 0; i + LANES <= width; i += LANES) total += load(x + i);
        mean = sum(total);
        for (; i < width; i++) mean += x[i];
        mean /= width;
    }
    vec squares = fill(0);
    for (i = 0; i + LANES <= width; i += LANES) {
        vec c = load(x + i) - mean;
        squares += c * c;
    }
    float square = sum(squares);
    for (; i < width; i++) square += (x[i] - mean) * (x[i] - mean);
    float factor = 1.0f / sqrtf(square / width + norm->eps);
    for (i = 0; i + LANES <= width; i += LANES) {
        vec c = (load(x + i) - mean) * factor * load(norm->gain + i);
        if (norm->bias) c += load(norm->bias + i);
        store(y + i, c);
    }
    for (; i < width; i++) {
        float c = (x[i] - mean) * factor * norm->gain[i];
        y[i] = norm->bias ? c + norm->bias[i] : c;
    }
}

static void rotate(float *x, const lmw_sublayer *s, const float *cosines, const float *sines) {
    int64_t half = s->rotary_width / 2;
    for (int64_t i = 0; i < half; i++) {
        int64_t one = s->interleaved ? 2 * i : i, two = s->interleaved ? 2 * i + 1 : i + half;
        float a = x[one], b = x[two];
        x[one] = a * cosines[i] - b * sines[i];
        x[two] = b * cosines[i] + a * sines[i];
    }
}

static CLONES void activate(float *gate, const float *value, int64_t count, int32_t kind) {
    int64_t i = 0;
    for (; i < count; i += LANES) {
        float at[LANES] = {0};
        int64_t many = count - i < LANES ? count - i : LANES;
        memcpy(at, gate + i, sizeof(float) * many);
        vec x = load(at), y = x;
        if (kind == LMW_SILU) y = x / (exponential(-x) + 1.0f);
        else if (kind == LMW_GELU_TANH) {
            /* x (1 + tanh z) / 2 = x / (1 + e^-2z) */
            vec z = (x + x * x * x * 0.044715f) * 0.7978845608028654f;
            y = x / (exponential(z * -2.0f) + 1.0f);
        } else if (kind == LMW_TANH) y = 2.0f / (exponential(x * -2.0f) + 1.0f) - 1.0f;
        else if (kind == LMW_GELU) y = x * (error_function(x * 0.70710678118654752f) + 1.0f) * 0.5f;
        else if (kind == LMW_RELU) y = select(x > 0.0f, x, fill(0));
        store(at, y);
        if (value)
            for (int64_t j = 0; j < many; j++) at[j] *= value[i + j];
        memcpy(gate + i, at, sizeof(float) * many);
    }
}

/* Numbers of keys or values in eight bits. */
typedef int8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

/* A row in eight bits and its scale, as rows of products are (kernels.h). */
static CLONES float to_eight(const float *x, int64_t h, int8_t *row) {
    float most = 0, scale = NAN;
    int finite = 1;
    for (int64_t i = 0; i < h; i++) {
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        finite &= isfinite(x[i]) != 0;
    }
    float inverse = finite ? 127.0f / most : 0.0f;
    if (finite) scale = isfinite(inverse) ? most / 127.0f : 0.0f;
    if (!isfinite(inverse)) inverse = 0.0f;
    for (int64_t i = 0; i < h; i++) row[i] = inverse > 0.0f ? (int8_t)rintf(x[i] * inverse) : 0;
    return scale;
}

/* ------------------------------------------------------------------ attention */

enum { BLOCK = 8, WIDE = 2 * LANES };

/* 16 numbers of keys or values from the i-th on, and the i-th. */
INLINE vec some(const void *p, int64_t i, int eight) {
    if (!eight) return load((const float *)p + i);
    return __builtin_convertvector(*(const bytes *)((const int8_t *)p + i), vec);
}
INLINE float one_of(const void *p, int64_t i, int eight) {
    return eight ? (float)((const int8_t *)p)[i] : ((const float *)p)[i];
}

/* c (ROWS, COLUMNS vectors) += a (ROWS, k) b (k, …) from b's `at` on: each number is a sum in the
 * order of k, whatever the other rows and columns. */
#define PRODUCT(ROWS, COLUMNS)                                                                   \
    INLINE void product_##ROWS##_##COLUMNS(const float *a, int64_t lda, const void *b, int64_t at, \
                                           int64_t ldb, int64_t k, float *c, int64_t ldc,        \
                                           const int eight) {                                    \
        vec sums[ROWS][COLUMNS];                                                                 \
        for (int r = 0; r < ROWS; r++)                                                           \
            for (int n = 0; n < COLUMNS; n++) sums[r][n] = load(c + r * ldc + n * LANES);        \
        for (int64_t i = 0; i < k; i++) {                                                        \
            vec column[COLUMNS];                                                                 \
            for (int n = 0; n < COLUMNS; n++) column[n] = some(b, at + i * ldb + n * LANES, eight); \
            for (int r = 0; r < ROWS; r++)                                                       \
                for (int n = 0; n < COLUMNS; n++) sums[r][n] += column[n] * a[r * lda + i];      \
        }                                                                                        \
        for (int r = 0; r < ROWS; r++)                                                           \
            for (int n = 0; n < COLUMNS; n++) store(c + r * ldc + n * LANES, sums[r][n]);        \
    }
PRODUCT(8, 2)
PRODUCT(4, 2)
PRODUCT(1, 2)
PRODUCT(1, 4)

/* c (rows, WIDE) += a (rows, k) b (k, …) from b's `at` on. */
INLINE void some_columns(const float *a, int64_t lda, const void *b, int64_t at, int64_t ldb,
                         int64_t k, float *c, int64_t ldc, int64_t rows, const int eight) {
    int64_t r = 0;
    for (; r + 8 <= rows; r += 8)
        product_8_2(a + r * lda, lda, b, at, ldb, k, c + r * ldc, ldc, eight);
    for (; r + 4 <= rows; r += 4)
        product_4_2(a + r * lda, lda, b, at, ldb, k, c + r * ldc, ldc, eight);
    for (; r < rows; r++) product_1_2(a + r * lda, lda, b, at, ldb, k, c + r * ldc, ldc, eight);
}

/* c (rows, n) += a (rows, k) b (k, n); rows at most BLOCK, k at most LMW_PAGE if WIDE does not divide
 * n. The last columns go through a buffer: a loop over them alone would be cut by k, and each part
 * rounded in its own way. */
INLINE void small_product(const float *a, int64_t lda, const void *b, int64_t at, int64_t ldb,
                          int64_t k, float *c, int64_t ldc, int64_t rows, int64_t n,
                          const int eight) {
    int64_t j = 0;
    for (; rows == 1 && j + 2 * WIDE <= n; j += 2 * WIDE)
        product_1_4(a, lda, b, at + j, ldb, k, c + j, ldc, eight);
    for (; j + WIDE <= n; j += WIDE)
        some_columns(a, lda, b, at + j, ldb, k, c + j, ldc, rows, eight);
    if (j == n) return;
    float columns[LMW_PAGE * WIDE] = {0}, sums[BLOCK * WIDE] = {0};
    for (int64_t i = 0; i < k; i++)
        for (int64_t col = j; col < n; col++)
            columns[i * WIDE + col - j] = one_of(b, at + i * ldb + col, eight);
    for (int64_t r = 0; r < rows; r++)
        memcpy(sums + r * WIDE, c + r * ldc + j, sizeof(float) * (n - j));
    some_columns(a, lda, columns, 0, WIDE, k, sums, WIDE, rows, 0);
    for (int64_t r = 0; r < rows; r++)
        memcpy(c + r * ldc + j, sums + r * WIDE, sizeof(float) * (n - j));
}

/* The softmax of scores[first, stop), in place; 0 from `from` on to `to` elsewhere. */
INLINE void softmax(float *scores, int64_t from, int64_t first, int64_t stop, int64_t to,
                    float scale, float softcap) {
    float most = -INFINITY;
    for (int64_t j = first; j < stop; j++) {
        float score = scores[j] * scale;
        if (softcap > 0) score = softcap * tanhf(score / softcap);
        scores[j] = score;
        most = score > most ? score : most;
    }
    for (int64_t j = from; j < first; j++) scores[j] = -INFINITY;
    for (int64_t j = stop; j < to; j++) scores[j] = -INFINITY;
    vec total = fill(0);
    for (int64_t j = from; j < to; j += LANES) {
        vec x = load(scores + j), e = exponential(x - most);
        e = select(x == -INFINITY, fill(0), e);
        store(scores + j, e);
        total += e;
    }
    float over = 1.0f / sum(total);
    for (int64_t j = from; j < to; j += LANES) store(scores + j, load(scores + j) * over);
}

/* The pages of a document's head: of an attention's keys and values, and where they are. */
typedef struct {
    const lmw_kv *kv;
    const int64_t *pages; /* of the document */
    int64_t kv_heads, head, h;
} pages;

/* The number of a page's head among those of all pages. */
INLINE int64_t place_of(const pages *p, int64_t page) {
    return p->pages[page] * p->kv_heads + p->head;
}

/* scores[from, stop) of each row times those of its page's keys or values. */
INLINE void scaled(const pages *p, const float *scales, float *scores, int64_t padded, int64_t rows,
                   int64_t from, int64_t stop) {
    int64_t page = from / LMW_PAGE;
    const float *own = scales + place_of(p, page) * LMW_PAGE - page * LMW_PAGE;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = from; j < stop; j++) scores[r * padded + j] *= own[j];
}

/* Attention of `rows` queries q (rows, h) to a document's pages; row r sees keys from first[r] to
 * last[r], neither of which falls from row to row. The results out (rows, h); `scores` has room for
 * `padded` numbers a row. What a row gives depends on no other one. */
INLINE void attend_to(const pages *p, const float *q, int64_t rows, const int64_t *first,
                      const int64_t *last, const lmw_sublayer *a, float *scores, int64_t padded,
                      float *out, const int eight) {
    int64_t h = p->h, from = first[0] / WIDE * WIDE, stop = last[rows - 1];
    int64_t to = (stop + WIDE - 1) / WIDE * WIDE, size = eight ? 1 : sizeof(float);
    for (int64_t r = 0; r < rows; r++)
        memset(scores + r * padded + from, 0, sizeof(float) * (to - from));
    for (int64_t low = from, high; low < to; low = high) {
        int64_t page = low / LMW_PAGE, next = (page + 1) * LMW_PAGE;
        const char *k = (const char *)p->kv->k + place_of(p, page) * h * LMW_PAGE * size;
        high = next < to ? next : to;
        small_product(q, h, k, low - page * LMW_PAGE, LMW_PAGE, h, scores + low, padded, rows,
                      high - low, eight);
        if (eight) scaled(p, p->kv->k_scales, scores, padded, rows, low, high < stop ? high : stop);
    }
    for (int64_t r = 0; r < rows; r++)
        softmax(scores + r * padded, from, first[r], last[r], to, a->scale, a->softcap);
    memset(out, 0, sizeof(float) * rows * h);
    for (int64_t low = from, high; low < stop; low = high) {
        int64_t page = low / LMW_PAGE, next = (page + 1) * LMW_PAGE;
        const char *v = (const char *)p->kv->v + place_of(p, page) * h * LMW_PAGE * size;
        high = next < stop ? next : stop;
        if (eight) scaled(p, p->kv->v_scales, scores, padded, rows, low, high);
        small_product(scores + low, padded, v, (low - page * LMW_PAGE) * h, h, high - low, out, h,
                      rows, h, eight);
    }
}

static CLONES void attend(const pages *p, const float *q, int64_t rows, const int64_t *first,
                          const int64_t *last, const lmw_sublayer *a, float *scores, int64_t padded,
                          float *out) {
    attend_to(p, q, rows, first, last, a, scores, padded, out, 0);
}

static CLONES void attend_eight(const pages *p, const float *q, int64_t rows, const int64_t *first,
                                const int64_t *last, const lmw_sublayer *a, float *scores,
                                int64_t padded, float *out) {
    attend_to(p, q, rows, first, last, a, scores, padded, out, 1);
}

/* ------------------------------------------------------------------ the pass */

enum {
    TILE = 64,            /* the most rows that go through sublayers together */
    EIGHT = 8,            /* of which tiles are a multiple */
    FEW = 32,             /* so many rows share each product instead */
    SHARES = 4,           /* of a product for each thread, for whoever is free */
    ALONE = 1 << 15       /* numbers below which a thread is faster alone */
};

typedef struct {
    const lmw_pass_work *work;
    float *queries; /* (rows, heads, h), then what they attended to */
    int64_t first, last; /* sublayers of the present region */
    atomic_int failed;   /* a thread had no memory */
} state;

/* Rows from `from` to `to` on their way through a sublayer. */
typedef struct {
    state *s;
    int64_t from, to;
    float *normed, *wide, *narrow;
    void *terms;
    int few; /* their products are shared among the threads */
} tile;

/* A product that threads share; `activated` is the feed-forward whose first map it is. */
typedef struct {
    const lmw_map *map;
    void *terms;
    float *y;
    int64_t rows, stride;
    const lmw_sublayer *activated;
} product;

/* Outputs [from, to) of a feed-forward's first map, in blocks, and those they gate, activated. */
static void activated_outputs(const product *p, int64_t from, int64_t to) {
    const lmw_sublayer *f = p->activated;
    int64_t inner = f->last.in, blocks = inner / LMW_BLOCK;
    lmw_multiply_terms(p->map, p->terms, p->rows, p->y, p->stride, from, to);
    if (f->gated)
        lmw_multiply_terms(p->map, p->terms, p->rows, p->y, p->stride, blocks + from, blocks + to);
    for (int64_t n = 0; n < p->rows; n++) {
        float *gate = p->y + n * p->stride + from * LMW_BLOCK;
        activate(gate, f->gated ? gate + inner : NULL, (to - from) * LMW_BLOCK, f->activation);
    }
}

static void share_product(void *arg, int part, int parts) {
    const product *p = arg;
    int64_t out = p->activated ? p->activated->last.in : p->map->out;
    int64_t blocks = lmw_blocks(out), units = (blocks + 3) / 4;
    int64_t from = units * part / parts * 4, to = units * (part + 1) / parts * 4;
    if (to > blocks) to = blocks;
    if (from >= to) return;
    if (p->activated) activated_outputs(p, from, to);
    else lmw_multiply_terms(p->map, p->terms, p->rows, p->y, p->stride, from, to);
}

/* The document of a row. */
static int64_t document_of(const lmw_pass_work *w, int64_t row) {
    int64_t low = 0, high = w->documents;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (w->starts[middle] <= row) low = middle;
        else high = middle;
    }
    return low;
}

/* y (out) += B A x (in). */
static CLONES void add_update(const lmw_update *u, const float *x, int64_t in, float *y) {
    float inner[LMW_UPDATE_ROWS];
    for (int64_t j = 0; j < u->parts * u->rank; j++) {
        const float *row = u->a + j * in;
        vec total = fill(0);
        int64_t i = 0;
        for (; i + LANES <= in; i += LANES) total += load(row + i) * load(x + i);
        inner[j] = sum(total);
        for (; i < in; i++) inner[j] += row[i] * x[i];
    }
    int64_t out = u->ends[u->parts - 1], from = 0;
    for (int64_t p = 0; p < u->parts; from = u->ends[p++])
        for (int64_t j = 0; j < u->rank; j++) {
            const float *column = u->b + j * out, factor = inner[p * u->rank + j];
            int64_t o = from;
            for (; o + LANES <= u->ends[p]; o += LANES)
                store(y + o, load(y + o) + load(column + o) * factor);
            for (; o < u->ends[p]; o++) y[o] += column[o] * factor;
        }
}

/* The rows of a map's product that get an update. */
typedef struct {
    const tile *t;
    int64_t map, in; /* the map's number */
    const float *x;
    float *y;
    int64_t stride_x, stride_y;
} updated;

static void update_rows(void *arg, int part, int parts) {
    const updated *each = arg;
    const lmw_pass_work *w = each->t->s->work;
    int64_t rows = each->t->to - each->t->from;
    for (int64_t n = part; n < rows; n += parts) {
        const lmw_update *own = w->updates[document_of(w, each->t->from + n)];
        if (own && own[each->map].rank)
            add_update(own + each->map, each->x + n * each->stride_x, each->in,
                       each->y + n * each->stride_y);
    }
}

/* The tile's rows of x through the first or the `last` map of a sublayer, activated where it is the
 * first one of a feed-forward. */
static void map_rows(tile *t, const lmw_sublayer *each, int last, const float *x, int64_t stride_x,
                     float *y, int64_t stride_y) {
    const lmw_pass_work *w = t->s->work;
    const lmw_map *map = last ? &each->last : &each->first;
    const lmw_sublayer *activated = each->op == LMW_FEED_FORWARD && !last ? each : NULL;
    int64_t rows = t->to - t->from;
    /* The gate and what it gates have to begin with a block each to be computed by one thread, and
     * nothing may join them before. */
    int joined = activated && activated->last.in % LMW_BLOCK == 0 && !w->updates;
    product p = {map, t->terms, y, rows, stride_y, joined ? activated : NULL};
    lmw_make_terms(map, x, stride_x, rows, t->terms);
    if (t->few && map->in * map->out > ALONE)
        lmw_parallel_parts(share_product, &p, SHARES * lmw_threads());
    else share_product(&p, 0, 1);
    if (w->updates) {
        updated u = {t, 2 * (each - w->stack->sublayers) + last, map->in, x, y, stride_x, stride_y};
        if (t->few && rows > 1 && rows * (map->in + map->out) > ALONE)
            lmw_parallel_parts(update_rows, &u, (int)rows);
        else update_rows(&u, 0, 1);
    }
    for (int64_t n = 0; activated && !joined && n < rows; n++) {
        int64_t inner = activated->last.in;
        float *gate = y + n * stride_y;
        activate(gate, activated->gated ? gate + inner : NULL, inner, activated->activation);
    }
}

/* The pages of a document's head. */
static pages pages_of(const lmw_pass_work *w, const lmw_sublayer *a, int64_t document,
                      int64_t head) {
    return (pages){&w->kv[a->cache], w->pages + w->firsts[document], a->kv_heads, head,
                   a->head_width};
}

/* A key and a value of a head, at a place in its document, to their page. */
static void keep(const pages *p, int64_t at, const float *key, const float *value) {
    int64_t h = p->h, place = place_of(p, at / LMW_PAGE), slot = at % LMW_PAGE;
    int64_t k = place * h * LMW_PAGE + slot, v = (place * LMW_PAGE + slot) * h;
    if (p->kv->k_scales) {
        int8_t row[h];
        p->kv->k_scales[place * LMW_PAGE + slot] = to_eight(key, h, row);
        for (int64_t i = 0; i < h; i++) ((int8_t *)p->kv->k)[k + i * LMW_PAGE] = row[i];
        p->kv->v_scales[place * LMW_PAGE + slot] = to_eight(value, h, (int8_t *)p->kv->v + v);
    } else {
        for (int64_t i = 0; i < h; i++) ((float *)p->kv->k)[k + i * LMW_PAGE] = key[i];
        memcpy((float *)p->kv->v + v, value, sizeof(float) * h);
    }
}

/* x through the norm before a sublayer. */
static void norm_before(tile *t, const lmw_sublayer *each) {
    const lmw_pass_work *w = t->s->work;
    int64_t width = w->stack->width;
    for (int64_t n = 0; n < t->to - t->from; n++)
        apply_norm(&each->pre, w->x + (t->from + n) * width, t->normed + n * width, width);
}

/* The op's output joins x. */
static void join(tile *t, const lmw_sublayer *each) {
    const lmw_pass_work *w = t->s->work;
    int64_t width = w->stack->width;
    for (int64_t n = 0; n < t->to - t->from; n++) {
        float *x = w->x + (t->from + n) * width, *y = t->narrow + n * width;
        apply_norm(&each->branch, y, y, width);
        for (int64_t i = 0; i < width; i++) x[i] = each->residual ? x[i] + y[i] : y[i];
        apply_norm(&each->post, x, x, width);
    }
}

/* Queries, keys and values of the tile's rows, normed and rotated, to where attention reads them. */
static void project(tile *t, const lmw_sublayer *a) {
    const lmw_pass_work *w = t->s->work;
    int64_t h = a->head_width, q_width = a->heads * h, kv_width = a->kv_heads * h;
    int64_t stride = q_width + 2 * kv_width, half = a->rotary_width / 2;
    norm_before(t, a);
    map_rows(t, a, 0, t->normed, w->stack->width, t->wide, stride);
    for (int64_t n = 0; n < t->to - t->from; n++) {
        int64_t row = t->from + n, document = document_of(w, row);
        int64_t at = w->past[document] + row - w->starts[document];
        float *from = t->wide + n * stride;
        const float *cosines = NULL, *sines = NULL;
        if (half) {
            cosines = w->cosines[a->table] + at * half;
            sines = w->sines[a->table] + at * half;
        }
        for (int64_t head = 0; head < a->heads; head++) {
            float *q = t->s->queries + row * q_width + head * h;
            apply_norm(&a->q_norm, from + head * h, q, h);
            if (half) rotate(q, a, cosines, sines);
        }
        for (int64_t head = 0; head < a->kv_heads; head++) {
            pages own = pages_of(w, a, document, head);
            float *key = from + q_width + head * h;
            apply_norm(&a->k_norm, key, key, h);
            if (half) rotate(key, a, cosines, sines);
            keep(&own, at, key, key + kv_width);
        }
    }
}

static int64_t greater(int64_t one, int64_t other) { return one > other ? one : other; }
static int64_t padded_bytes(int64_t bytes) { return (bytes + 63) / 64 * 64; }

/* What the queries of heads that share keys attend to, in their places. Blocks of queries are taken
 * in turn by as many items as there are such heads, of which this is number `item`. */
static void attend_head(state *s, const lmw_sublayer *a, int64_t document, int64_t head,
                        int64_t item) {
    const lmw_pass_work *w = s->work;
    int64_t h = a->head_width, group = a->heads / a->kv_heads;
    int64_t begin = w->starts[document], queries = (w->starts[document + 1] - begin) * group;
    if (item * BLOCK >= queries) return;
    int64_t past = w->past[document], count = past + queries / group;
    int64_t padded = (count + WIDE - 1) / WIDE * WIDE;
    pages own = pages_of(w, a, document, head);
    float *q = scratch_memory(padded_bytes(4 * BLOCK * (2 * h + padded))), *places[BLOCK];
    if (!q) {
        atomic_store(&s->failed, 1);
        return;
    }
    float *out = q + BLOCK * h, *scores = out + BLOCK * h;
    for (int64_t from = item * BLOCK; from < queries; from += group * BLOCK) {
        int64_t rows = queries - from < BLOCK ? queries - from : BLOCK, first[BLOCK], last[BLOCK];
        for (int64_t r = 0; r < rows; r++) {
            int64_t row = (from + r) / group, stop = past + row + 1;
            first[r] = a->window && stop > a->window ? stop - a->window : 0;
            last[r] = a->causal ? stop : count;
            places[r] = s->queries + ((begin + row) * a->heads + head * group + (from + r) % group) * h;
            memcpy(q + r * h, places[r], sizeof(float) * h);
        }
        (own.kv->k_scales ? attend_eight : attend)(&own, q, rows, first, last, a, scores, padded,
                                                   out);
        for (int64_t r = 0; r < rows; r++) memcpy(places[r], out + r * h, sizeof(float) * h);
    }
}

/* Items of documents, those of the longest document (the last one) first; a part is one of them. */
static void attend_part(void *arg, int part, int parts) {
    state *s = arg;
    const lmw_sublayer *a = &s->work->stack->sublayers[s->first];
    int64_t all = s->work->documents * a->heads, group = a->heads / a->kv_heads;
    for (int64_t item = part; item < all; item += parts) {
        int64_t head = item % a->heads;
        attend_head(s, a, s->work->documents - 1 - item / a->heads, head / group, head % group);
    }
}

static void attend_all(state *s, const lmw_sublayer *a) {
    const lmw_pass_work *w = s->work;
    int64_t numbers = 0;
    for (int64_t n = 0; n < w->documents; n++) {
        int64_t rows = w->starts[n + 1] - w->starts[n];
        numbers += rows * (w->past[n] + rows) * a->heads * a->head_width;
    }
    int64_t items = w->documents * a->heads;
    if (numbers > ALONE)
        lmw_parallel_parts(attend_part, s, (int)(items < 4096 ? items : 4096));
    else attend_part(s, 0, 1);
}

static void attention_output(tile *t, const lmw_sublayer *a) {
    const lmw_pass_work *w = t->s->work;
    int64_t q_width = a->heads * a->head_width;
    map_rows(t, a, 1, t->s->queries + t->from * q_width, q_width, t->narrow, w->stack->width);
    join(t, a);
}

static void feed_forward(tile *t, const lmw_sublayer *f) {
    const lmw_pass_work *w = t->s->work;
    norm_before(t, f);
    map_rows(t, f, 0, t->normed, w->stack->width, t->wide, f->first.out);
    map_rows(t, f, 1, t->wide, f->first.out, t->narrow, w->stack->width);
    join(t, f);
}

/* The memory of a tile of so many rows; 0 if the thread has none. */
static int make_tile(tile *t, state *s, int64_t rows) {
    const lmw_stack *stack = s->work->stack;
    int64_t wide = 0, terms = 0, narrow = padded_bytes(4 * rows * stack->width);
    for (int64_t n = 0; n < stack->count; n++) {
        const lmw_sublayer *each = &stack->sublayers[n];
        wide = greater(wide, each->first.out);
        terms = greater(terms, lmw_terms_bytes(&each->first, rows));
        terms = greater(terms, lmw_terms_bytes(&each->last, rows));
    }
    wide = padded_bytes(4 * rows * wide);
    char *at = scratch_memory(2 * narrow + wide + padded_bytes(terms));
    if (!at) {
        atomic_store(&s->failed, 1);
        return 0;
    }
    *t = (tile){.s = s, .normed = (float *)at, .narrow = (float *)(at + narrow)};
    t->wide = (float *)(at + 2 * narrow);
    t->terms = at + 2 * narrow + wide;
    return 1;
}

static void project_rows(tile *t) { project(t, &t->s->work->stack->sublayers[t->s->first]); }

/* From what attention found, if it is attention that stands first, to the next attention. */
static void finish_rows(tile *t) {
    const lmw_stack *stack = t->s->work->stack;
    for (int64_t n = t->s->first; n < t->s->last; n++) {
        const lmw_sublayer *each = &stack->sublayers[n];
        if (each->op == LMW_ATTENTION) attention_output(t, each);
        else feed_forward(t, each);
    }
    float *x = t->s->work->x;
    if (t->s->last == stack->count)
        for (int64_t row = t->from; row < t->to; row++)
            apply_norm(&stack->last, x + row * stack->width, x + row * stack->width, stack->width);
}

typedef struct {
    state *s;
    void (*work)(tile *);
    int64_t size; /* rows of a tile */
} tiled;

static void run_tile(void *arg, int part, int parts) {
    const tiled *each = arg;
    int64_t rows = each->s->work->rows, size = each->size;
    tile t;
    if (!make_tile(&t, each->s, size)) return;
    for (int64_t from = part * size; from < rows; from += parts * size) {
        t.from = from;
        t.to = from + size < rows ? from + size : rows;
        each->work(&t);
    }
}

/* Rows of a tile, so that all threads have as many tiles. */
static int64_t tile_size(int64_t rows) {
    int64_t threads = lmw_threads(), rounds = (rows + threads * TILE - 1) / (threads * TILE);
    int64_t size = (rows + threads * rounds - 1) / (threads * rounds);
    return (size + EIGHT - 1) / EIGHT * EIGHT;
}

/* All rows through some work: few of them together, many in tiles. */
static void run_rows(state *s, void (*work)(tile *), tile *few) {
    if (few->few) {
        work(few);
        return;
    }
    tiled each = {s, work, tile_size(s->work->rows)};
    int64_t tiles = (s->work->rows + each.size - 1) / each.size;
    lmw_parallel_parts(run_tile, &each, (int)(tiles < 4096 ? tiles : 4096));
}

int lmw_pass(const lmw_pass_work *work) {
    const lmw_stack *stack = work->stack;
    state s = {.work = work, .queries = work->queries};
    tile few = {.few = work->rows <= FEW};
    for (s.first = 0; s.first < stack->count && !atomic_load(&s.failed); s.first = s.last) {
        const lmw_sublayer *each = &stack->sublayers[s.first];
        s.last = s.first + 1;
        while (s.last < stack->count && stack->sublayers[s.last].op != LMW_ATTENTION) s.last++;
        if (each->op == LMW_ATTENTION) {
            /* Attention has the same memory of the thread as a tile, so a tile is made anew. */
            if (few.few && !make_tile(&few, &s, work->rows)) break;
            few.few = work->rows <= FEW;
            few.to = work->rows;
            run_rows(&s, project_rows, &few);
            attend_all(&s, each);
        }
        if (few.few && !make_tile(&few, &s, work->rows)) break;
        few.few = work->rows <= FEW;
        few.to = work->rows;
        run_rows(&s, finish_rows, &few);
    }
    return atomic_load(&s.failed) ? LMW_NO_MEMORY : LMW_OK;
}
