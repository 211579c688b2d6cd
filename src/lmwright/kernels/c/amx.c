/* AMX: products of tiles, 16 rows × 64 bytes times 64 bytes × 16 outputs.

   The configuration of the tiles belongs to a thread and is loaded at the start of each call and
   given up at its end, so that others who use tiles in this process are not disturbed. */

#define _GNU_SOURCE
#include <sys/syscall.h>
#include <unistd.h>

#include "avx512.h"
#include "cpu.h"

#define REQUEST_PERMISSION 0x1023 /* ARCH_REQ_XCOMP_PERM */
#define TILE_DATA 18              /* XFEATURE_XTILEDATA */

enum {
  FEW_ROWS = 1,          /* fewer rows are faster with VNNI (measured) */
  PANEL_ROWS = 512,
  PANEL_BYTES = 1 << 20, /* of quantised rows, which should stay in L2 */
  CHUNK = 1024,          /* inputs whose tiles of two blocks stay in L1 */
  FEW_GROUP_ROWS = 9,    /* the same for weights in groups */
  GROUP_INPUTS = 16384,  /* of a block of weights that is unpacked on the stack */
};

struct tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes_a_row[16];
  uint8_t rows[16];
} __attribute__((packed, aligned(64)));

static int suits(void) {
  unsigned a, b, c, d;
  if (!read_features().amx_int8 || __get_cpuid_max(0, 0) < 0x1d) return 0;
  __cpuid_count(0x1d, 0, a, b, c, d);
  if (a < 1) return 0; /* no palettes */
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0 ? 40 : 0;
}

static void quantise(const float *x, int64_t in, int64_t padded, struct row_quants row) {
  quantise_row_avx512(x, in, padded, row);
}

/* Tiles 0 to 3 are sums, 4 and 5 rows, 6 and 7 weights, over so many inputs; fewer than 16 rows take
   less time. */
static void configure(int rows, int inputs) {
  struct tile_config config;
  memset(&config, 0, sizeof config);
  config.palette = 1;
  for (int i = 0; i < 8; i++) {
    config.bytes_a_row[i] = (uint16_t)(i == 4 || i == 5 ? inputs : 64);
    config.rows[i] = (uint8_t)(i < 6 ? rows : inputs / 4);
  }
  /* The intrinsic does not tell the compiler that it reads memory. */
  __asm__ volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}

/* The y of up to 16 rows and `blocks` neighbouring blocks, of which each has its own tile of sums;
   row by row, for the rows of y lie on many pages. */
INLINE void finish_tiles(const struct int8_job *job, const int32_t (*sums)[256], int64_t row,
                         int64_t rows, int64_t block, const int blocks) {
  for (int64_t r = 0; r < rows && r < 16; r++)
    for (int b = 0; b < blocks; b++)
      finish16(job, _mm512_load_si512(sums[b] + 16 * r), row + r, block + b);
}

/* Up to 16 rows times one block: the weights are one stream. */
static void few_rows(const struct int8_job *job, int64_t block, int64_t row) {
  int32_t sums[1][256] __attribute__((aligned(64)));
  const uint8_t *w = job->quants + block * LMW_BLOCK * job->padded;
  const int8_t *q = job->rows_q + row * job->stride_q;
  _tile_zero(0);
  for (int64_t k = 0; k < job->padded; k += 64) {
    _tile_loadd(4, q + k, job->stride_q);
    _tile_loadd(6, w + k * LMW_BLOCK, 64);
    _tile_dpbsud(0, 4, 6);
  }
  _tile_stored(0, sums[0], 64);
  finish_tiles(job, sums, row, job->rows - row, block, 1);
}

/* The sums of 32 rows and two blocks, while they are not in tiles. */
struct sums {
  int32_t tiles[4][256];
} __attribute__((aligned(64)));

/* 17 to 32 rows times two blocks over inputs [from, to): each tile that is loaded is used twice. */
INLINE void pair(const struct int8_job *job, int64_t block, int64_t row, int64_t from, int64_t to,
                 struct sums *sums) {
  const int64_t padded = job->padded, stride = job->stride_q;
  const uint8_t *w = job->quants + block * LMW_BLOCK * padded;
  const uint8_t *w_next = w + LMW_BLOCK * padded;
  const int8_t *q = job->rows_q + row * stride, *q_next = q + 16 * stride;
  if (from) {
    _tile_loadd(0, sums->tiles[0], 64);
    _tile_loadd(1, sums->tiles[1], 64);
    _tile_loadd(2, sums->tiles[2], 64);
    _tile_loadd(3, sums->tiles[3], 64);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = from; k < to; k += 64) {
    _tile_loadd(6, w + k * LMW_BLOCK, 64);
    _tile_loadd(4, q + k, stride);
    _tile_dpbsud(0, 4, 6);
    _tile_loadd(7, w_next + k * LMW_BLOCK, 64);
    _tile_dpbsud(1, 4, 7);
    _tile_loadd(5, q_next + k, stride);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
  }
  _tile_stored(0, sums->tiles[0], 64);
  _tile_stored(1, sums->tiles[1], 64);
  _tile_stored(2, sums->tiles[2], 64);
  _tile_stored(3, sums->tiles[3], 64);
}

/* More than 16 rows times two blocks. The inputs are taken in chunks whose weights stay in L1 while
   all rows pass; with several chunks the sums are kept in between. */
static void two_blocks(const struct int8_job *job, int64_t block) {
  struct sums kept[PANEL_ROWS / 32];
  const int64_t padded = job->padded;
  const int64_t chunks = (padded + CHUNK - 1) / CHUNK;
  const int64_t chunk = (padded / 64 + chunks - 1) / chunks * 64;
  for (int64_t from = 0; from < padded; from += chunk) {
    const int64_t to = from + chunk < padded ? from + chunk : padded;
    for (int64_t row = 0; row < job->rows; row += 32) {
      const int64_t rows = job->rows - row > 32 ? 32 : job->rows - row;
      struct sums *sums = kept + (chunks > 1 ? row / 32 : 0);
      pair(job, block, row, from, to, sums);
      if (to < padded) continue;
      finish_tiles(job, sums->tiles, row, rows, block, 2);
      finish_tiles(job, sums->tiles + 2, row + 16, rows - 16, block, 2);
    }
  }
}

/* At most PANEL_ROWS rows times the blocks [from, to). */
static void panel(const struct int8_job *job, int64_t from, int64_t to) {
  int64_t block = from;
  if (job->rows > 16)
    for (; block + 2 <= to; block += 2) two_blocks(job, block);
  for (; block < to; block++)
    for (int64_t row = 0; row < job->rows; row += 16) few_rows(job, block, row);
}

static void int8(const struct int8_job *job, int64_t from, int64_t to) {
  if (job->rows < FEW_ROWS) {
    lmw_avx512_int8(job, from, to);
    return;
  }
  configure(job->rows < 16 ? (int)job->rows : 16, 64);
  int64_t most = PANEL_BYTES / job->stride_q / 32 * 32;
  most = most < 64 ? 64 : most > PANEL_ROWS ? PANEL_ROWS : most;
  const int64_t panels = (job->rows + most - 1) / most; /* of about the same size */
  most = ((job->rows + panels - 1) / panels + 31) / 32 * 32;
  for (int64_t row = 0; row < job->rows; row += most) {
    struct int8_job part = *job;
    part.rows = job->rows - row > most ? most : job->rows - row;
    part.rows_q += row * job->stride_q;
    part.row_scales += row;
    part.row_sums += row;
    part.y += row * job->stride_y;
    panel(&part, from, to);
  }
  _tile_release();
}

/* -- weights in groups ------------------------------------------------------------------------- */

/* The quants of a block as s8, without their offset, in tiles of a group. */
INLINE void unpack(const uint8_t *quants, int64_t padded, const int kind, int8_t *to) {
  const int eight = kind == LMW_Q8_0 || kind == LMW_Q6_K;
  const __m512i low = _mm512_set1_epi8(15);
  const __m512i offset = _mm512_set1_epi8((char)group_offset(kind));
  for (int64_t k = 0; k < padded; k += 32)
    for (int j = 0; j < (eight ? 8 : 4); j++, quants += 64) {
      const __m512i bytes = _mm512_load_si512(quants);
      int8_t *at = to + (k + 4 * j) * LMW_BLOCK;
      if (eight) {
        _mm512_store_si512(at, _mm512_sub_epi8(bytes, offset));
      } else {
        const __m512i high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low);
        _mm512_store_si512(at, _mm512_sub_epi8(_mm512_and_si512(bytes, low), offset));
        _mm512_store_si512(at + 256, _mm512_sub_epi8(high, offset));
      }
    }
}

INLINE __m512 load_halves(const uint8_t *at, int64_t number) {
  return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)at + number));
}

/* The sums of up to four groups of 16 rows, from one on. */
INLINE void multiply_groups(const int8_t *q, int64_t stride, const int8_t *w, int64_t group,
                            const int width, const int count, int32_t (*sums)[256]) {
  q += group * width;
  w += group * width * LMW_BLOCK;
#define MULTIPLY(i, rows, weights)                        \
  if (count > i) {                                        \
    _tile_zero(i);                                        \
    _tile_loadd(rows, q + i * width, stride);             \
    _tile_loadd(weights, w + i * width * LMW_BLOCK, 64);  \
    _tile_dpbssd(i, rows, weights);                       \
    _tile_stored(i, sums[i], 64);                         \
  }
  MULTIPLY(0, 4, 6)
  MULTIPLY(1, 5, 7)
  MULTIPLY(2, 4, 6)
  MULTIPLY(3, 5, 7)
#undef MULTIPLY
}

/* 16 rows times one block, in the order of operations of group_kernel.h. */
INLINE void group_rows(const struct group_job *job, const uint8_t *block_at, const int8_t *w,
                       int64_t block, int64_t first, const int kind) {
  const int two = kind == LMW_Q4_K || kind == LMW_Q6_K, width = kind == LMW_Q6_K ? 16 : 32;
  const int mins = kind == LMW_Q4_1 || kind == LMW_Q4_K, inner = two ? 256 / width : 2;
  const struct group_layout at = lay_out_group(kind, job->padded);
  const int64_t groups = job->padded / width, rows = job->rows - first;
  const int8_t *q = job->rows_q + first * job->stride_q;
  const int32_t *sums32 = job->sums32 + first * (job->padded / 32);
  int32_t sums[4][256] __attribute__((aligned(64)));
  __m512 total[16], least[16];
  for (int r = 0; r < 16; r++) total[r] = _mm512_setzero_ps();
  for (int64_t group = 0; group < groups; group += inner) {
    if (two) {
      __m512i whole[16];
      for (int r = 0; r < 16; r++) whole[r] = _mm512_setzero_si512();
      for (int i = 0; i < inner; i += 4) {
        multiply_groups(q, job->stride_q, w, group + i, width, 4, sums);
        for (int j = 0; j < 4; j++) {
          const __m128i bytes =
              _mm_load_si128((const __m128i *)(block_at + at.factors) + group + i + j);
          const __m512i factors =
              kind == LMW_Q6_K ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes);
          for (int r = 0; r < 16; r++)
            whole[r] = _mm512_add_epi32(
                whole[r], _mm512_mullo_epi32(_mm512_load_si512(sums[j] + 16 * r), factors));
        }
      }
      const __m512 scale = load_halves(block_at + at.scales, group / inner);
      for (int r = 0; r < 16; r++)
        total[r] = _mm512_add_ps(total[r], _mm512_mul_ps(_mm512_cvtepi32_ps(whole[r]), scale));
    } else {
      multiply_groups(q, job->stride_q, w, group, width, 2, sums);
      for (int j = 0; j < 2; j++) {
        const __m512 scale = load_halves(block_at + at.scales, group + j);
        for (int r = 0; r < 16; r++) {
          const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums[j] + 16 * r));
          total[r] = _mm512_add_ps(total[r], _mm512_mul_ps(sum, scale));
        }
      }
    }
  }
  float totals[16][16] __attribute__((aligned(64)));
  for (int r = 0; r < 16; r++) _mm512_store_ps(totals[r], total[r]);
  if (mins) {
    for (int r = 0; r < 16; r++) least[r] = _mm512_setzero_ps();
    for (int64_t group = 0; group < groups; group += two ? 8 : 1) {
      const __m512 min = load_halves(block_at + at.mins, two ? group / 8 : group);
      for (int r = 0; r < 16; r++) {
        const int32_t *row = sums32 + r * groups + group;
        __m512i whole = _mm512_set1_epi32(row[0]);
        if (two) {
          whole = _mm512_setzero_si512();
          for (int i = 0; i < 8; i++) {
            const __m128i bytes =
                _mm_load_si128((const __m128i *)(block_at + at.min_factors) + group + i);
            whole = _mm512_add_epi32(whole, _mm512_mullo_epi32(_mm512_set1_epi32(row[i]),
                                                               _mm512_cvtepu8_epi32(bytes)));
          }
        }
        least[r] = _mm512_add_ps(least[r], _mm512_mul_ps(_mm512_cvtepi32_ps(whole), min));
      }
    }
  }
  const int64_t out = block * LMW_BLOCK;
  const __mmask16 mask = lanes(job->out - out);
  for (int64_t r = 0; r < rows && r < 16; r++) {
    __m512 y = _mm512_load_ps(totals[r]);
    if (kind == LMW_Q4_1) y = _mm512_add_ps(y, least[r]);
    if (kind == LMW_Q4_K) y = _mm512_sub_ps(y, least[r]);
    y = _mm512_mul_ps(y, _mm512_set1_ps(job->row_scales[first + r]));
    if (job->bias) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, job->bias + out));
    _mm512_mask_storeu_ps(job->y + (first + r) * job->stride_y + out, mask, y);
  }
}

INLINE void group_kind(const struct group_job *job, int64_t from, int64_t to, const int kind) {
  int8_t w[GROUP_INPUTS * LMW_BLOCK] __attribute__((aligned(64)));
  const struct group_layout at = lay_out_group(kind, job->padded);
  configure(16, kind == LMW_Q6_K ? 16 : 32);
  for (int64_t block = from; block < to; block++) {
    const uint8_t *block_at = job->blocks + block * at.bytes;
    unpack(block_at + at.quants, job->padded, kind, w);
    for (int64_t row = 0; row < job->rows; row += 16)
      group_rows(job, block_at, w, block, row, kind);
  }
  _tile_release();
}

static void group_q8_0(const struct group_job *job, int64_t from, int64_t to) {
  group_kind(job, from, to, LMW_Q8_0);
}
static void group_q4_0(const struct group_job *job, int64_t from, int64_t to) {
  group_kind(job, from, to, LMW_Q4_0);
}
static void group_q4_1(const struct group_job *job, int64_t from, int64_t to) {
  group_kind(job, from, to, LMW_Q4_1);
}
static void group_q4_k(const struct group_job *job, int64_t from, int64_t to) {
  group_kind(job, from, to, LMW_Q4_K);
}
static void group_q6_k(const struct group_job *job, int64_t from, int64_t to) {
  group_kind(job, from, to, LMW_Q6_K);
}

static void group(const struct group_job *job, int64_t from, int64_t to) {
  if (job->rows < FEW_GROUP_ROWS || job->padded > GROUP_INPUTS) {
    lmw_avx512_group(job, from, to);
    return;
  }
  switch (job->kind) {
    case LMW_Q8_0: group_q8_0(job, from, to); break;
    case LMW_Q4_0: group_q4_0(job, from, to); break;
    case LMW_Q4_1: group_q4_1(job, from, to); break;
    case LMW_Q4_K: group_q4_k(job, from, to); break;
    case LMW_Q6_K: group_q6_k(job, from, to); break;
  }
}

const struct variant lmw_amx = {"amx", 'C', suits, quantise, int8, group};
