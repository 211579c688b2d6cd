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
  FEW_ROWS = 5,          /* fewer rows are faster with VNNI (measured) */
  PANEL_BYTES = 1 << 20, /* of quantised rows, which should stay in L2 */
  TILE_BYTES = 1024,
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

/* Tiles 0 to 3 are sums, 4 and 5 rows, 6 and 7 weights; with 16 rows at most, 0 to 3 are sums of
   four blocks, 4 is the rows and 5 the weights. */
static void configure(int few) {
  struct tile_config config;
  memset(&config, 0, sizeof config);
  config.palette = 1;
  for (int i = 0; i < 8; i++) {
    config.bytes_a_row[i] = 64;
    config.rows[i] = (uint8_t)(i < 5 && few ? few : 16);
  }
  /* The intrinsic does not tell the compiler that it reads memory. */
  __asm__ volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}

static void finish_tile(const struct int8_job *job, const int32_t *sums, int64_t row, int64_t rows,
                        int64_t block) {
  for (int64_t r = 0; r < rows; r++)
    finish16(job, _mm512_load_si512(sums + 16 * r), row + r, block);
}

/* Weights that are needed next, fetched bit by bit while others are multiplied. */
struct ahead {
  const uint8_t *at, *end;
  int lines; /* a step */
};

INLINE void fetch(struct ahead *next) {
  for (int i = 0; i < next->lines && next->at < next->end; i++, next->at += 64)
    _mm_prefetch((const char *)next->at, _MM_HINT_T1);
}

/* Up to 16 rows times `blocks` blocks. */
INLINE void few_rows(const struct int8_job *job, int64_t block, int64_t row, const int blocks,
                     struct ahead *next) {
  int32_t sums[4][256] __attribute__((aligned(64)));
  const int64_t padded = job->padded, rows = job->rows - row > 16 ? 16 : job->rows - row;
  const uint8_t *w = job->quants + block * LMW_BLOCK * padded;
  const int8_t *q = job->rows_q + row * job->stride_q;
  _tile_zero(0);
  if (blocks > 1) _tile_zero(1);
  if (blocks > 2) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < padded; k += 64, w += TILE_BYTES) {
    fetch(next);
    _tile_loadd(4, q + k, job->stride_q);
    _tile_loadd(5, w, 64);
    _tile_dpbsud(0, 4, 5);
    if (blocks > 1) {
      _tile_loadd(6, w + LMW_BLOCK * padded, 64);
      _tile_dpbsud(1, 4, 6);
    }
    if (blocks > 2) {
      _tile_loadd(7, w + 2 * LMW_BLOCK * padded, 64);
      _tile_dpbsud(2, 4, 7);
      _tile_loadd(5, w + 3 * LMW_BLOCK * padded, 64);
      _tile_dpbsud(3, 4, 5);
    }
  }
  _tile_stored(0, sums[0], 64);
  if (blocks > 1) _tile_stored(1, sums[1], 64);
  if (blocks > 2) {
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
  }
  for (int b = 0; b < blocks; b++) finish_tile(job, sums[b], row, rows, block + b);
}

/* 17 to 32 rows times two blocks: each tile that is loaded is used twice. */
static void pair(const struct int8_job *job, int64_t block, int64_t row, int64_t rows,
                 struct ahead *next) {
  int32_t sums[4][256] __attribute__((aligned(64)));
  const int64_t padded = job->padded, stride = job->stride_q;
  const uint8_t *w = job->quants + block * LMW_BLOCK * padded;
  const uint8_t *w_next = w + LMW_BLOCK * padded;
  const int8_t *q = job->rows_q + row * stride, *q_next = q + 16 * stride;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < padded; k += 64) {
    fetch(next);
    _tile_loadd(6, w + k * LMW_BLOCK, 64);
    _tile_loadd(4, q + k, stride);
    _tile_dpbsud(0, 4, 6);
    _tile_loadd(7, w_next + k * LMW_BLOCK, 64);
    _tile_dpbsud(1, 4, 7);
    _tile_loadd(5, q_next + k, stride);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
  }
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
  _tile_stored(2, sums[2], 64);
  _tile_stored(3, sums[3], 64);
  finish_tile(job, sums[0], row, 16, block);
  finish_tile(job, sums[1], row, 16, block + 1);
  finish_tile(job, sums[2], row + 16, rows - 16, block);
  finish_tile(job, sums[3], row + 16, rows - 16, block + 1);
}

static void panel(const struct int8_job *job, int64_t from, int64_t to) {
  const int64_t padded = job->padded, turns = (job->rows + 31) / 32;
  const uint8_t *end = job->quants + to * LMW_BLOCK * padded;
  for (int64_t block = from; block < to;) {
    const int blocks = job->rows <= 16 && block + 4 <= to ? 4 : block + 2 <= to ? 2 : 1;
    const int64_t bytes = blocks * LMW_BLOCK * padded;
    const uint8_t *w = job->quants + block * LMW_BLOCK * padded;
    struct ahead next = {w + bytes, w + 2 * bytes < end ? w + 2 * bytes : end,
                         (int)((blocks * LMW_BLOCK + turns - 1) / turns)};
    for (int64_t row = 0; row < job->rows; row += 32) {
      const int64_t rows = job->rows - row > 32 ? 32 : job->rows - row;
      if (blocks == 2 && rows > 16)
        pair(job, block, row, rows, &next);
      else
        for (int64_t part = row; part < row + rows; part += 16)
          switch (blocks) {
            case 4: few_rows(job, block, part, 4, &next); break;
            case 2: few_rows(job, block, part, 2, &next); break;
            default: few_rows(job, block, part, 1, &next);
          }
    }
    block += blocks;
  }
}

static void int8(const struct int8_job *job, int64_t from, int64_t to) {
  if (job->rows < FEW_ROWS) {
    lmw_avx512_int8(job, from, to);
    return;
  }
  configure(job->rows < 16 ? (int)job->rows : 0);
  int64_t most = PANEL_BYTES / job->stride_q / 32 * 32;
  if (most < 64) most = 64;
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

const struct variant lmw_amx = {"amx", 'C', suits, quantise, int8};
