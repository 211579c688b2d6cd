/* Matrix products of quantised weights on the CPU: the interface.

   A linear map has `out` × `in` weights; x is (rows, in) and y is (rows, out), both fp32, row by
   row, with strides in elements. Sizes are in weights or elements, blocks are of 16 outputs.

   int8: each row of the weights has one fp32 scale, amax / 127, and the quants
   rint(w × (127 / amax)), half to even. Rows of x are quantised by the same rule when they are
   multiplied. A row whose amax is so small that 127 / amax overflows counts as a row of zeros. Sums
   are exact int32, and y = float(sum) × (scale_x × scale_w) + bias, each step rounded to fp32, so
   that the bits of a row depend on nothing but that row, the weights and the bias. A row of x with
   a NaN or an infinity gives a row of NaN.

   Functions that return int give 0 or one of the errors below. */

#ifndef LMW_KERNELS_H
#define LMW_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum {
  LMW_OK = 0,
  LMW_NOT_FINITE = 1, /* the weights hold a NaN or an infinity */
  LMW_SHAPE = 2,      /* no outputs, no inputs, or more inputs than an int32 sum can hold */
  LMW_NO_MEMORY = 3,
  LMW_UNKNOWN = 4, /* no variant of that name, or this CPU cannot run it */
};

enum {
  LMW_BLOCK = 16,          /* outputs of a block */
  LMW_DEPTH = 64,          /* inputs are padded to a multiple of this */
  LMW_MOST_INPUTS = 131072 /* 127 × 127 × inputs stays below 2^31 */
};

#define LMW_API __attribute__((visibility("default")))

/* -- variants -------------------------------------------------------------------------------- */

/* Allow variants up to a class of CPU: 'A', 'B' or 'C'; any other letter: those that every CPU of
   this kind runs. Choose the best of them that suits this CPU. */
LMW_API void lmw_limit(char cpu_class);
/* The name of the variant in use. */
LMW_API const char *lmw_variant(void);
/* The names of all variants that suit this CPU within the limit, best first, separated by spaces. */
LMW_API const char *lmw_variants(void);
/* Use one of lmw_variants() by its name. */
LMW_API int lmw_choose(const char *name);

/* -- memory and threads ---------------------------------------------------------------------- */

/* Memory aligned to 64 bytes, on huge pages where it is large and the system has them; NULL when
   there is none. It is freed with the same number of bytes. */
LMW_API void *lmw_alloc(size_t bytes);
LMW_API void lmw_free(void *memory, size_t bytes);

/* Threads of a parallel region, the caller being one of them; 1 until it is set. */
LMW_API void lmw_set_threads(int threads);
LMW_API int lmw_threads(void);

/* work(arg, part, parts) for each part of 0 … parts − 1, spread over the threads; returns when all
   are done. Parts may run one after another on one thread, so that none may wait for another, and
   `parts` may be 1 where the threads are taken (by a region of another thread or around this one).
   lmw_parallel offers as many parts as threads. */
typedef void (*lmw_work)(void *arg, int part, int parts);
LMW_API void lmw_parallel(lmw_work work, void *arg);
LMW_API void lmw_parallel_parts(lmw_work work, void *arg, int parts);

/* -- int8 ------------------------------------------------------------------------------------ */

/* Bytes of packed weights; they must lie at a multiple of 64 bytes. 0: such a shape is refused. */
LMW_API size_t lmw_int8_bytes(int64_t out, int64_t in);
LMW_API int lmw_pack_int8(const float *w, int64_t out, int64_t in, int64_t stride, void *packed);
/* The same in parts: first the head, then rows [from, to) with `w` at row `from`, a multiple of
   16; `to` is one too, or `out`. */
LMW_API int lmw_pack_int8_head(int64_t out, int64_t in, void *packed);
LMW_API int lmw_pack_int8_rows(const float *w, int64_t stride, void *packed, int64_t from, int64_t to);
/* quant × scale of all weights, or of rows [from, to), as (rows, in) without gaps. */
LMW_API void lmw_unpack_int8(const void *packed, float *w);
LMW_API void lmw_unpack_int8_rows(const void *packed, float *w, int64_t from, int64_t to);
LMW_API int lmw_linear_int8(const void *packed, const float *x, int64_t rows, int64_t stride_x,
                            const float *bias, float *y, int64_t stride_y);

/* -- weights in groups of inputs --------------------------------------------------------------- */

/* The layouts are named after the formats of GGUF that they hold without loss. d, m are fp16, q whole
   numbers; a group is of 32 inputs, but of 16 in Q6_K.
     Q8_0  d × q, q of 8 bits              Q4_K  (d × f) × q − (m × e), d and m a 256 inputs, f and e
     Q4_0  d × (q − 8), q of 4 bits              of 6 bits a group; the inputs are a multiple of 256
     Q4_1  d × q + m, q of 4 bits          Q6_K  (d × f) × q, d a 256 inputs, f of 8 bits a group, q
                                                 of 6 bits; the inputs are a multiple of 256
   Rows of x are quantised as for int8. With the exact sums A = Σ q × x and S = Σ x of a group:
     Q8_0, Q4_0  y = (Σ float(A) × d) × scale_x + bias
     Q4_1        y = (Σ float(A) × d + Σ float(S) × m) × scale_x + bias
     Q4_K        y = (Σ float(Σ A × f) × d − Σ float(Σ S × e) × m) × scale_x + bias
     Q6_K        y = (Σ float(Σ A × f) × d) × scale_x + bias
   where sums within 256 inputs (the inner ones) are exact, and the outer ones are of fp32, each from
   the first group to the last, beginning with 0. */
enum { LMW_Q8_0 = 1, LMW_Q4_0 = 2, LMW_Q4_1 = 3, LMW_Q4_K = 4, LMW_Q6_K = 5 };

/* Bytes of packed weights, at a multiple of 64 bytes: a head of 64 (magic, outputs, inputs, kind; 8
   bytes each), then the blocks of 16 outputs. 0: such a shape or kind is refused. */
LMW_API size_t lmw_group_bytes(int kind, int64_t out, int64_t in);
LMW_API int lmw_linear_group(const void *packed, const float *x, int64_t rows, int64_t stride_x,
                             const float *bias, float *y, int64_t stride_y);
LMW_API void lmw_linear_group_q(const void *packed, const void *quantised, int64_t rows,
                                const float *bias, float *y, int64_t stride_y, int64_t from,
                                int64_t to);

/* -- the same in steps, for code that shares quantised rows or a parallel region --------------- */

/* Bytes of quantised rows, at a multiple of 64 bytes. */
LMW_API size_t lmw_quantised_bytes(int64_t rows, int64_t in);
/* Quantise all rows, or rows [from, to) of them, on the calling thread. */
LMW_API void lmw_quantise(const float *x, int64_t rows, int64_t in, int64_t stride_x, void *quantised);
LMW_API void lmw_quantise_rows(const float *x, int64_t rows, int64_t in, int64_t stride_x,
                               void *quantised, int64_t from, int64_t to);
/* Multiply quantised rows with the blocks [from, to) of 16 outputs, on the calling thread; `bias`
   and `y` are those of output 0. Four blocks and more at once are fastest. */
LMW_API void lmw_linear_int8_q(const void *packed, const void *quantised, int64_t rows,
                               const float *bias, float *y, int64_t stride_y, int64_t from, int64_t to);
/* The number of blocks of 16 outputs. */
LMW_API int64_t lmw_blocks(int64_t out);

#endif
