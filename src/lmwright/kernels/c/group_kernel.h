/* The product of weights in groups, once for all variants. A variant defines two types of 16 lanes,
   `ints` and `floats`, MOST_GROUP_ROWS, and

     ints zero_ints(void), same(int32_t), times(ints, ints), plus(ints, ints), minus(ints, ints)
     ints dot(ints sums, ints bytes, ints four): u8 × s8, four a lane, added to sums
     ints low_halves(ints), high_halves(ints): 4 bits a byte, as u8
     ints load_bytes(const void *): 64 of them;  load_u8, load_s8(const void *): 16 of them, widened
     floats zero_floats(void), same_float(float), to_float(ints), load_halves(const void *)
     floats add(floats, floats), subtract(floats, floats), multiply(floats, floats)
     void store(const struct group_job *, floats y, int64_t row, int64_t block) */

/* The sums of a row's group with one block, without the offset of the quants. */
INLINE void group_sums(ints *sums, const uint8_t *w, const int8_t *q, int64_t stride, const int kind,
                       const int rows) {
  const int eight = kind == LMW_Q8_0 || kind == LMW_Q6_K, loads = kind == LMW_Q8_0 ? 8 : 4;
  for (int r = 0; r < rows; r++) sums[r] = zero_ints();
  for (int j = 0; j < loads; j++) {
    const ints bytes = load_bytes(w + 64 * j);
    for (int r = 0; r < rows; r++) {
      int32_t four, later;
      memcpy(&four, q + r * stride + 4 * j, 4);
      if (eight) {
        sums[r] = dot(sums[r], bytes, same(four));
      } else {
        memcpy(&later, q + r * stride + 4 * j + 16, 4);
        sums[r] = dot(sums[r], low_halves(bytes), same(four));
        sums[r] = dot(sums[r], high_halves(bytes), same(later));
      }
    }
  }
}

INLINE void group_tile(const struct group_job *job, int64_t block, int64_t first, const int kind,
                       const int rows) {
  const int two = kind == LMW_Q4_K || kind == LMW_Q6_K, mins = kind == LMW_Q4_1 || kind == LMW_Q4_K;
  const int offset = group_offset(kind);
  const int width = kind == LMW_Q6_K ? 16 : 32, inner = two ? 256 / width : 1;
  const int group_bytes = width * LMW_BLOCK / (kind == LMW_Q8_0 || kind == LMW_Q6_K ? 1 : 2);
  const struct group_layout at = lay_out_group(kind, job->padded);
  const uint8_t *w = job->blocks + block * at.bytes;
  const int64_t groups = job->padded / width, stride = job->stride_q;
  const int8_t *q = job->rows_q + first * stride;
  const int32_t *row_sums = (kind == LMW_Q6_K ? job->sums16 : job->sums32) + first * groups;
  floats total[MOST_GROUP_ROWS], least[MOST_GROUP_ROWS];
  for (int r = 0; r < rows; r++) total[r] = least[r] = zero_floats();
  for (int64_t outer = 0; outer < groups / inner; outer++) {
    ints whole[MOST_GROUP_ROWS], whole_least[MOST_GROUP_ROWS];
    if (two)
      for (int r = 0; r < rows; r++) whole[r] = whole_least[r] = zero_ints();
    for (int i = 0; i < inner; i++) {
      const int64_t group = outer * inner + i;
      ints sums[MOST_GROUP_ROWS];
      group_sums(sums, w + at.quants + group * group_bytes, q + group * width, stride, kind, rows);
      for (int r = 0; r < rows; r++) {
        const int32_t sum = row_sums[r * groups + group];
        if (offset) sums[r] = minus(sums[r], same(offset * sum));
        if (two) {
          const uint8_t *factors = w + at.factors + group * LMW_BLOCK;
          whole[r] = plus(whole[r], times(sums[r], kind == LMW_Q6_K ? load_s8(factors)
                                                                    : load_u8(factors)));
          if (mins)
            whole_least[r] = plus(whole_least[r], times(same(sum), load_u8(w + at.min_factors +
                                                                           group * LMW_BLOCK)));
        } else {
          whole[r] = sums[r];
          whole_least[r] = same(sum);
        }
      }
    }
    const floats scale = load_halves(w + at.scales + outer * LMW_BLOCK * 2);
    for (int r = 0; r < rows; r++) total[r] = add(total[r], multiply(to_float(whole[r]), scale));
    if (mins) {
      const floats min = load_halves(w + at.mins + outer * LMW_BLOCK * 2);
      for (int r = 0; r < rows; r++)
        least[r] = add(least[r], multiply(to_float(whole_least[r]), min));
    }
  }
  for (int r = 0; r < rows; r++) {
    floats y = total[r];
    if (kind == LMW_Q4_1) y = add(y, least[r]);
    if (kind == LMW_Q4_K) y = subtract(y, least[r]);
    store(job, multiply(y, same_float(job->row_scales[first + r])), first + r, block);
  }
}

INLINE void group_kind(const struct group_job *job, int64_t from, int64_t to, const int kind) {
  for (int64_t block = from; block < to; block++)
    for (int64_t row = 0; row < job->rows; row += MOST_GROUP_ROWS)
      switch (job->rows - row) {
        case 1: group_tile(job, block, row, kind, 1); break;
#if MOST_GROUP_ROWS > 2
        case 2: group_tile(job, block, row, kind, 2); break;
        case 3: group_tile(job, block, row, kind, 3); break;
#endif
        default: group_tile(job, block, row, kind, MOST_GROUP_ROWS);
      }
}

static void group_any(const struct group_job *job, int64_t from, int64_t to) {
  switch (job->kind) {
    case LMW_Q8_0: group_kind(job, from, to, LMW_Q8_0); break;
    case LMW_Q4_0: group_kind(job, from, to, LMW_Q4_0); break;
    case LMW_Q4_1: group_kind(job, from, to, LMW_Q4_1); break;
    case LMW_Q4_K: group_kind(job, from, to, LMW_Q4_K); break;
    case LMW_Q6_K: group_kind(job, from, to, LMW_Q6_K); break;
  }
}
