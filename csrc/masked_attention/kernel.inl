// The core, compiled once per SIMD level. Scores are kept transposed, [key][query]: a tile of queries fills the lanes of
// the vectors, so that the softmax over keys needs no sum across lanes, the decomposed bias is two vector loads, and the
// scores come out of the first product in the layout that the second one reads.
namespace zoo::masked_attention::ZOO_SIMD_LEVEL {

#if defined(__clang__) || __GNUC__ >= 12
#define ZOO_SHUFFLE __builtin_shufflevector
#endif

template <typename A>
struct Vector {
  typedef A type __attribute__((vector_size(ZOO_SIMD_BYTES), may_alias));
  typedef std::conditional_t<sizeof(A) == 4, int32_t, int64_t> integer;
  typedef integer integers __attribute__((vector_size(ZOO_SIMD_BYTES), may_alias));
};

constexpr int kM = ZOO_SIMD_BYTES == 64 ? 8 : 4;   // rows of a register block
constexpr int kNV = ZOO_SIMD_BYTES == 16 ? 2 : 3;  // vectors of a register block, at most

template <typename A>
constexpr int kWidth = ZOO_SIMD_BYTES / static_cast<int>(sizeof(A));
template <typename A>
constexpr int kStep = kWidth<A> < 4 ? 4 : kWidth<A>;  // queries come by so many, because packing goes four by four
template <typename A>
constexpr int kTile = kNV * kWidth<A>;  // queries per tile, at most

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

template <typename A>
inline __attribute__((always_inline)) typename Vector<A>::type splat(A value) {
  return value - typename Vector<A>::type{};
}

// Keeps a when b is NaN.
template <typename V>
inline __attribute__((always_inline)) V larger(V a, V b) {
  return b > a ? b : a;
}

// 2^x for x <= 0, to about one unit in the last place; 0 below the normal numbers, NaN for NaN.
inline __attribute__((always_inline)) Vector<float>::type exp2(Vector<float>::type x) {
  using V = Vector<float>::type;
  using I = Vector<float>::integers;
  constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, found in the low bits
  const V floor = splat(-127.0f);
  x = x < floor ? floor : x;
  const V t = x + magic;
  const V f = x - (t - magic);
  V y = f * 0.00132647727855023555f + 0.009671513201529474f;
  y = y * f + 0.0555073364195043545f;
  y = y * f + 0.240222420753389767f;
  y = y * f + 0.693146977634343889f;
  y = y * f + 1.0f;
  return y * (V)(((I)t + 127) << 23);
}

inline __attribute__((always_inline)) Vector<double>::type exp2(Vector<double>::type x) {
  using V = Vector<double>::type;
  using I = Vector<double>::integers;
  constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52
  const V floor = splat(-1023.0);
  x = x < floor ? floor : x;
  const V t = x + magic;
  const V f = x - (t - magic);
  constexpr double c[] = {1.36914888539041240e-12, 2.56784359934882060e-11, 4.44553827187081062e-10,
                          7.05491162080112087e-09, 1.01780860092396963e-07, 1.32154867901443090e-06,
                          1.52527338040598410e-05, 1.54035303933816060e-04, 1.33335581464284440e-03,
                          9.61812910762847687e-03, 5.55041086648215761e-02, 2.40226506959100694e-01,
                          6.93147180559945286e-01, 1.0};
  V y = splat(c[0]);
#pragma GCC unroll 16
  for (int i = 1; i < 14; ++i) y = y * f + c[i];
  return y * (V)(((I)t + 1023) << 52);
}

// ---- rows in and out of the accumulation type

inline void widen(const float* row, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = row[i];
}
inline void widen(const double* row, int64_t n, double* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = row[i];
}
inline void widen(const BFloat16* row, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = static_cast<uint32_t>(row[i].x) << 16;
    __builtin_memcpy(out + i, &bits, 4);
  }
}
inline void widen(const Half* row, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t half = row[i].x;
    uint32_t bits = (half & 0x7fffu) << 13;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    value *= 0x1p112f;  // moves the exponent, and normalises subnormal numbers
    __builtin_memcpy(&bits, &value, 4);
    bits |= (half & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;  // infinity and NaN
    bits |= (half & 0x8000u) << 16;
    __builtin_memcpy(out + i, &bits, 4);
  }
}

template <typename T, typename A>
void narrow(const A* row, int64_t n, A factor, T* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(row[i] * factor);
}

// out[c * ld + j] = rows[j][c] * factor for four rows.
inline void interleave(const float* const* rows, int64_t columns, float factor, float* out, int64_t ld) {
  int64_t c = 0;
#ifdef ZOO_SHUFFLE
  typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
  for (; c + 4 <= columns; c += 4) {
    const Four a = *reinterpret_cast<const Four*>(rows[0] + c), b = *reinterpret_cast<const Four*>(rows[1] + c);
    const Four e = *reinterpret_cast<const Four*>(rows[2] + c), f = *reinterpret_cast<const Four*>(rows[3] + c);
    const Four ab = ZOO_SHUFFLE(a, b, 0, 4, 1, 5), ef = ZOO_SHUFFLE(e, f, 0, 4, 1, 5);
    const Four AB = ZOO_SHUFFLE(a, b, 2, 6, 3, 7), EF = ZOO_SHUFFLE(e, f, 2, 6, 3, 7);
    *reinterpret_cast<Four*>(out + c * ld) = ZOO_SHUFFLE(ab, ef, 0, 1, 4, 5) * factor;
    *reinterpret_cast<Four*>(out + (c + 1) * ld) = ZOO_SHUFFLE(ab, ef, 2, 3, 6, 7) * factor;
    *reinterpret_cast<Four*>(out + (c + 2) * ld) = ZOO_SHUFFLE(AB, EF, 0, 1, 4, 5) * factor;
    *reinterpret_cast<Four*>(out + (c + 3) * ld) = ZOO_SHUFFLE(AB, EF, 2, 3, 6, 7) * factor;
  }
#endif
  for (; c < columns; ++c) {
    for (int j = 0; j < 4; ++j) out[c * ld + j] = rows[j][c] * factor;
  }
}
inline void interleave(const double* const* rows, int64_t columns, double factor, double* out, int64_t ld) {
  for (int64_t c = 0; c < columns; ++c) {
    for (int j = 0; j < 4; ++j) out[c * ld + j] = rows[j][c] * factor;
  }
}

// rows [width][columns] of a tile [columns][width]; columns is a multiple of 4.
template <typename A>
void transpose_tile(const A* tile, int64_t width, int64_t columns, A* rows) {
  for (int64_t c = 0; c < columns; c += 4) {
    const A* four[4] = {tile + c * width, tile + (c + 1) * width, tile + (c + 2) * width, tile + (c + 3) * width};
    interleave(four, width, A(1), rows + c, columns);
  }
}

// Columns of `rows` by number: those of an operand (0, 1, ...), or the keys of a block of a bias.
struct Columns {
  const int64_t* index = nullptr;  // null: 0, 1, ...
  int64_t stride = 1;
  int64_t count = 0;
};

template <typename T, typename A>
const A* read_row(const T* row, const Columns& columns, A* scratch) {
  if (columns.index == nullptr) {
    if constexpr (std::is_same_v<T, A>) {
      return row;
    } else {
      widen(row, columns.count, scratch);
      return scratch;
    }
  }
  const bool dense = columns.stride == 1 && columns.index[columns.count - 1] - columns.index[0] == columns.count - 1;
  if (dense) return read_row(row + columns.index[0], Columns{nullptr, 1, columns.count}, scratch);
  for (int64_t c = 0; c < columns.count; ++c) scratch[c] = static_cast<A>(row[columns.index[c] * columns.stride]);
  return scratch;
}

// out[c * ld + r] = rows[index[r]][c] * factor; zero for count <= r < padded. scratch: 4 rows.
template <typename T, typename A>
void pack_transposed(const T* rows, int64_t stride, const int64_t* index, int64_t count, int64_t padded,
                     const Columns& columns, A factor, A* out, int64_t ld, A* scratch) {
  for (int64_t r = 0; r < count; r += 4) {
    const A* four[4];
    const int64_t filled = std::min<int64_t>(4, count - r);
    for (int64_t j = 0; j < 4; ++j) {
      if (j < filled) {
        four[j] = read_row(rows + index[r + j] * stride, columns, scratch + j * columns.count);
      } else {
        A* zeros = scratch + j * columns.count;
        std::fill(zeros, zeros + columns.count, A(0));
        four[j] = zeros;
      }
    }
    interleave(four, columns.count, factor, out + r, ld);
  }
  for (int64_t r = round_up(count, 4); r < padded; r += 4) {
    for (int64_t c = 0; c < columns.count; ++c) {
      for (int64_t j = 0; j < 4; ++j) out[c * ld + r + j] = A(0);
    }
  }
}

// Panels [d][kM] of kM rows each, zeros after the last row.
template <typename T, typename A>
void pack_row_panels(const T* rows, int64_t stride, const int64_t* index, int64_t count, int64_t d, A* out, A* scratch) {
  for (int64_t r = 0; r < count; r += kM) {
    pack_transposed(rows, stride, index + r, std::min<int64_t>(kM, count - r), kM, Columns{nullptr, 1, d}, A(1),
                    out + r * d, kM, scratch);
  }
}

// Panels [count][kM] of kM columns each, zeros after the last column.
template <typename T, typename A>
void pack_column_panels(const T* rows, int64_t stride, const int64_t* index, int64_t count, int64_t d, A* out,
                        A* scratch) {
  const int64_t padded = round_up(d, kM);
  for (int64_t r = 0; r < count; ++r) {
    const A* row = read_row(rows + index[r] * stride, Columns{nullptr, 1, d}, scratch);
    for (int64_t c = 0; c + kM <= d; c += kM) {
      for (int64_t j = 0; j < kM; ++j) out[c * count + r * kM + j] = row[c + j];
    }
    if (padded != d) {
      const int64_t c = padded - kM;
      for (int64_t j = 0; j < kM; ++j) out[c * count + r * kM + j] = c + j < d ? row[c + j] : A(0);
    }
  }
}

// Rows as they are, scaled and padded to ld columns by zeros.
template <typename T, typename A>
void pack_rows(const T* rows, int64_t stride, const int64_t* index, int64_t count, int64_t d, A factor, A* out,
               int64_t ld) {
  for (int64_t r = 0; r < count; ++r) {
    A* row = out + r * ld;
    widen(rows + index[r] * stride, d, row);
    for (int64_t c = 0; c < d; ++c) row[c] *= factor;
    std::fill(row + d, row + ld, A(0));
  }
}

// ---- the product that everything is made of

// acc[m][v] += sum over i < count of a[i * AK + m * AM] * b[i * ld + v * width].
template <typename A, int NV, int AK, int AM>
inline __attribute__((always_inline)) void accumulate(typename Vector<A>::type (&acc)[kM][NV], const A* __restrict a,
                                                      const A* __restrict b, int64_t ld, int64_t count) {
  using V = typename Vector<A>::type;
  for (int64_t i = 0; i < count; ++i) {
    V x[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) x[v] = *reinterpret_cast<const V*>(b + v * kWidth<A>);
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) acc[m][v] += a[m * AM] * x[v];
    }
    a += AK;
    b += ld;
  }
}

template <typename A, int NV>
inline __attribute__((always_inline)) void load(typename Vector<A>::type (&acc)[kM][NV], const A* from, int64_t ld) {
  using V = typename Vector<A>::type;
#pragma GCC unroll 8
  for (int m = 0; m < kM; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) acc[m][v] = *reinterpret_cast<const V*>(from + m * ld + v * kWidth<A>);
  }
}

template <typename A, int NV>
inline __attribute__((always_inline)) void store(const typename Vector<A>::type (&acc)[kM][NV], A* to, int64_t ld) {
  using V = typename Vector<A>::type;
#pragma GCC unroll 8
  for (int m = 0; m < kM; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) *reinterpret_cast<V*>(to + m * ld + v * kWidth<A>) = acc[m][v];
  }
}

// ---- the same of bfloat16, where the processor multiplies it: two products a lane and instruction, summed in float.
// Operands are words of two neighbours each: columns of q and k, keys of the weights and v.

#if ZOO_SIMD_X86 && ZOO_SIMD_BYTES == 64
#define ZOO_BF16 __attribute__((target("avx512bf16")))

typedef uint32_t Words __attribute__((vector_size(64), may_alias));

inline int64_t pairs_of(int64_t n) { return (n + 1) / 2; }
inline uint32_t* words(float* packed) { return reinterpret_cast<uint32_t*>(packed); }

// Word c of a row of n columns; what is beyond them is zero.
inline uint32_t word_of(const BFloat16* row, int64_t c, int64_t n) {
  const uint32_t low = row[2 * c].x;
  return 2 * c + 1 < n ? low | static_cast<uint32_t>(row[2 * c + 1].x) << 16 : low;
}

// out[c * ld + r] = word c of rows[index[r]]; zero for count <= r < padded.
inline void pack_words(const BFloat16* rows, int64_t stride, const int64_t* index, int64_t count, int64_t padded,
                       int64_t d, uint32_t* out, int64_t ld) {
  for (int64_t r = 0; r < count; ++r) {
    const BFloat16* row = rows + index[r] * stride;
    for (int64_t c = 0; c < d / 2; ++c) __builtin_memcpy(out + c * ld + r, row + 2 * c, 4);
    if (d % 2 != 0) out[d / 2 * ld + r] = word_of(row, d / 2, d);
  }
  for (int64_t r = count; r < padded; ++r) {
    for (int64_t c = 0; c < pairs_of(d); ++c) out[c * ld + r] = 0;
  }
}

// Panels [pairs of keys][kM] of kM columns each: of keys r and r + 1 in column c, zeros after the last.
inline void pack_key_words(const BFloat16* rows, int64_t stride, const int64_t* index, int64_t count, int64_t d,
                           uint32_t* out) {
  for (int64_t r = 0; r < count; r += 2) {
    const BFloat16* low = rows + index[r] * stride;
    const BFloat16* high = r + 1 < count ? rows + index[r + 1] * stride : nullptr;
    for (int64_t c = 0; c < round_up(d, kM); c += kM) {
      uint32_t* to = out + c * pairs_of(count) + r / 2 * kM;
      const int64_t there = std::min<int64_t>(kM, d - c);
      for (int64_t j = 0; j < there; ++j) to[j] = low[c + j].x;
      if (high != nullptr) {
        for (int64_t j = 0; j < there; ++j) to[j] |= static_cast<uint32_t>(high[c + j].x) << 16;
      }
      for (int64_t j = there; j < kM; ++j) to[j] = 0;
    }
  }
}

// To the nearest bfloat16, in the upper half of the word. NaN stays NaN: none here has all bits set.
inline __attribute__((always_inline)) Words rounded(Words bits) { return bits + 0x7fffu + ((bits >> 16) & 1u); }

// Weights [count][width] become words [pairs of keys][width], in place.
template <int NV>
inline void pair_weights(float* weights, int64_t count) {
  for (int64_t key = 0; key < count; key += 2) {
    for (int v = 0; v < NV; ++v) {
      const Words low = rounded(reinterpret_cast<const Words*>(weights + key * NV * 16)[v]);
      const bool last = key + 1 == count;
      const Words high = last ? Words{} : rounded(reinterpret_cast<const Words*>(weights + (key + 1) * NV * 16)[v]);
      reinterpret_cast<Words*>(weights + key / 2 * NV * 16)[v] = low >> 16 | (high & 0xffff0000u);
    }
  }
}

// acc[m][v] += sum over i < count of a[i * kM + m] * b[i * ld + v * width], for words.
template <int NV>
ZOO_BF16 inline void accumulate_words(__m512 (&acc)[kM][NV], const uint32_t* __restrict a, const uint32_t* __restrict b,
                                      int64_t ld, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    __m512bh x[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) x[v] = (__m512bh)_mm512_loadu_si512(b + v * 16);
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m) {
      const __m512bh y = (__m512bh)_mm512_set1_epi32(static_cast<int32_t>(a[m]));
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) acc[m][v] = _mm512_dpbf16_ps(acc[m][v], x[v], y);
    }
    a += kM;
    b += ld;
  }
}
#endif

// ---- scores of a tile of queries with a block of keys

constexpr double kLog2E = 1.4426950408889634074;
constexpr double kLn2 = 0.69314718055994530942;

// A block of keys, packed once for all tiles of a task.
template <typename A>
struct Keys {
  const int64_t* index;  // [count] rows of k
  int64_t count;
  A* k;         // [ceil(count / kM)][d][kM]
  A* v;         // forward: [ceil(dv / kM)][count][kM]; backward: [ceil(count / kM)][dv][kM]
  A* k_column;  // backward: [ceil(d / kM)][count][kM]
  int64_t *row, *column;  // [round_up(count, kM)] key's place in the grid of the decomposed bias
};

// A tile of queries in the lanes. Scores are in units of log2, so that the softmax needs 2^x and not e^x.
template <typename A>
struct Tile {
  const int64_t* index;  // [count] rows of q
  int64_t count;
  int64_t width;  // lanes in use: vectors * kWidth
  A* q;           // [d][width], times scale * log2(e)
  A *rel_h, *rel_w;  // [height][width], [width of the grid][width], times log2(e)
  // forward
  A* out;         // [round_up(dv, kM)][width]
  A *max, *sum;   // [width]
  // backward
  A *grad, *q_rows, *grad_rows;  // [dv][width]; [width][columns of d], times scale; [width][columns of dv]
  A *lse, *delta;                // [width]
  A *dq, *drel_h, *drel_w;       // [round_up(d, kM)][width], [height][width], [grid width][width]
};

// acc [kM][width] = the bias of a tile with kM keys, in units of log2; a table of it lies in scores. Untouched without.
template <typename A, int NV>
inline __attribute__((always_inline)) void bias_of(typename Vector<A>::type (&acc)[kM][NV], bool table,
                                                   const Keys<A>& keys, int64_t key, const Tile<A>& tile,
                                                   const A* scores) {
  using V = typename Vector<A>::type;
  constexpr int width = NV * kWidth<A>;
  if (table) {
    load<A, NV>(acc, scores + key * width, width);
  } else if (tile.rel_h != nullptr) {
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m) {
      const A* h = tile.rel_h + keys.row[key + m] * width;
      const A* w = tile.rel_w + keys.column[key + m] * width;
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        acc[m][v] = *reinterpret_cast<const V*>(h + v * kWidth<A>) + *reinterpret_cast<const V*>(w + v * kWidth<A>);
      }
    }
  }
}

template <typename T, typename A>
void hide_future(const Problem<T, A>& p, const Keys<A>& keys, const Tile<A>& tile, int64_t width, A* scores) {
  if (!p.causal || keys.index[keys.count - 1] <= tile.index[0]) return;
  for (int64_t key = 0; key < keys.count; ++key) {
    for (int64_t lane = 0; lane < tile.count && tile.index[lane] < keys.index[key]; ++lane) {
      scores[key * width + lane] = -std::numeric_limits<A>::infinity();
    }
  }
}

// scores [count][width] = the table of bias of a tile with a block of keys.
template <typename T, typename A>
void pack_bias(const Problem<T, A>& p, const T* bias, const Keys<A>& keys, const Tile<A>& tile, int64_t width,
               A* scores, A* scratch) {
  if (bias == nullptr) return;
  pack_transposed(bias, p.bias_q, tile.index, tile.count, width, Columns{keys.index, p.bias_k, keys.count},
                  static_cast<A>(kLog2E), scores, width, scratch);
}

// scores [count][width] of a tile with a block of keys: product, bias and causal mask.
template <typename T, typename A, int NV>
void scores_of(const Problem<T, A>& p, const T* bias, const Keys<A>& keys, const Tile<A>& tile, A* scores, A* scratch) {
  using V = typename Vector<A>::type;
  constexpr int width = NV * kWidth<A>;
  pack_bias(p, bias, keys, tile, width, scores, scratch);
  for (int64_t key = 0; key < keys.count; key += kM) {
    V acc[kM][NV] = {};
    bias_of<A, NV>(acc, bias != nullptr, keys, key, tile, scores);
    accumulate<A, NV, kM, 1>(acc, keys.k + key * p.d, tile.q, width, p.d);
    store<A, NV>(acc, scores + key * width, width);
  }
  hide_future(p, keys, tile, width, scores);
}

// One step of the online softmax: scores [count][width] become weights, and decay [NV] what earlier ones fade by.
template <typename A, int NV>
inline __attribute__((always_inline)) void weigh(int64_t count, Tile<A>& tile, A* scores,
                                                 typename Vector<A>::type (&decay)[NV]) {
  using V = typename Vector<A>::type;
  constexpr int width = NV * kWidth<A>;
  const V none = splat(-std::numeric_limits<A>::infinity());
  V top[NV], shift[NV], sum[NV];
  for (int v = 0; v < NV; ++v) top[v] = reinterpret_cast<const V*>(tile.max)[v];
  for (int64_t key = 0; key < count; ++key) {
    for (int v = 0; v < NV; ++v) top[v] = larger(top[v], reinterpret_cast<const V*>(scores + key * width)[v]);
  }
  for (int v = 0; v < NV; ++v) {
    shift[v] = top[v] == none ? V{} : top[v];  // nothing but masked keys so far: 2^-inf = 0, not NaN
    decay[v] = exp2(reinterpret_cast<const V*>(tile.max)[v] - shift[v]);
    sum[v] = reinterpret_cast<const V*>(tile.sum)[v] * decay[v];
    reinterpret_cast<V*>(tile.max)[v] = top[v];
  }
  for (int64_t key = 0; key < count; ++key) {
    V* row = reinterpret_cast<V*>(scores + key * width);
    for (int v = 0; v < NV; ++v) {
      row[v] = exp2(row[v] - shift[v]);
      sum[v] += row[v];
    }
  }
  for (int v = 0; v < NV; ++v) reinterpret_cast<V*>(tile.sum)[v] = sum[v];
}

// out [kM][width] = out * decay + acc.
template <typename A, int NV, typename R>
inline __attribute__((always_inline)) void fade_and_add(A* out, const typename Vector<A>::type (&decay)[NV],
                                                        const R (&acc)[kM][NV]) {
  using V = typename Vector<A>::type;
#pragma GCC unroll 8
  for (int m = 0; m < kM; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      V* to = reinterpret_cast<V*>(out + m * NV * kWidth<A>) + v;
      *to = *to * decay[v] + (V)acc[m][v];
    }
  }
}

// A tile meets a block of keys.
template <typename T, typename A, int NV>
void attend(const Forward<T, A>& p, const T* bias, const Keys<A>& keys, Tile<A>& tile, A* scores, A* scratch) {
  using V = typename Vector<A>::type;
  constexpr int width = NV * kWidth<A>;
  V decay[NV];
  scores_of<T, A, NV>(p, bias, keys, tile, scores, scratch);
  weigh<A, NV>(keys.count, tile, scores, decay);
  for (int64_t c = 0; c < p.dv; c += kM) {
    V acc[kM][NV] = {};
    accumulate<A, NV, kM, 1>(acc, keys.v + c * keys.count, scores, width, keys.count);
    fade_and_add<A, NV>(tile.out + c * width, decay, acc);
  }
}

#ifdef ZOO_BF16
// The same by words: q, k and v of tile and keys are such.
template <int NV>
ZOO_BF16 void attend_words(const Forward<BFloat16, float>& p, const BFloat16* bias, const Keys<float>& keys,
                           Tile<float>& tile, float* scores, float* scratch) {
  using V = typename Vector<float>::type;
  constexpr int width = NV * kWidth<float>;
  const float factor = p.scale * static_cast<float>(kLog2E);
  const int64_t columns = pairs_of(p.d), rows = pairs_of(keys.count);
  pack_bias(p, bias, keys, tile, width, scores, scratch);
  for (int64_t key = 0; key < keys.count; key += kM) {
    __m512 products[kM][NV] = {};
    accumulate_words<NV>(products, words(keys.k) + key * columns, words(tile.q), width, columns);
    V acc[kM][NV] = {};
    bias_of<float, NV>(acc, bias != nullptr, keys, key, tile, scores);
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) acc[m][v] += (V)products[m][v] * factor;
    }
    store<float, NV>(acc, scores + key * width, width);
  }
  hide_future(p, keys, tile, width, scores);
  V decay[NV];
  weigh<float, NV>(keys.count, tile, scores, decay);
  pair_weights<NV>(scores, keys.count);
  for (int64_t c = 0; c < p.dv; c += kM) {
    __m512 acc[kM][NV] = {};
    accumulate_words<NV>(acc, words(keys.v) + c * rows, words(scores), width, rows);
    fade_and_add<float, NV>(tile.out + c * width, decay, acc);
  }
}
#endif

// What a worker needs for one task, allocated once.
template <typename A>
class Arena {
 public:
  explicit Arena(int64_t count) : buffer_(count) {}
  void reset() { used_ = 0; }
  A* take(int64_t count) {
    A* found = buffer_.data() + used_;
    used_ += round_up(count, 64 / static_cast<int64_t>(sizeof(A)));
    return found;
  }

 private:
  simd::Buffer<A> buffer_;
  int64_t used_ = 0;
};

// An upper bound of what the tiles and blocks below take.
template <typename T, typename A>
int64_t shared_scratch(const Problem<T, A>& p) {
  const int64_t d = round_up(std::max(p.d, p.dv), kM);
  const int64_t keys = round_up(std::min(kKeys, p.nk), kM);
  return 3 * keys * d + 2 * keys * kTile<A> + 4 * std::max({d, keys, p.height, p.width}) + 1024;
}

template <typename T, typename A>
void locate_keys(const Problem<T, A>& p, Keys<A>& keys) {
  if (p.rel_h.data == nullptr) return;
  for (int64_t j = 0; j < keys.count; ++j) {
    keys.row[j] = keys.index[j] / p.width;
    keys.column[j] = keys.index[j] % p.width;
  }
  for (int64_t j = keys.count; j < round_up(keys.count, kM); ++j) keys.row[j] = keys.column[j] = 0;
}

template <typename A>
int64_t tile_width(int64_t queries) {
  return std::min<int64_t>(kTile<A>, round_up(queries, kStep<A>));
}

template <typename T, typename A>
void pack_queries(const Problem<T, A>& p, int64_t b, int64_t h, Tile<A>& tile, Arena<A>& arena, A* scratch) {
  tile.q = arena.take(p.d * tile.width);
  pack_transposed(p.q.at(b, h), p.q.stride_n, tile.index, tile.count, tile.width, Columns{nullptr, 1, p.d},
                  p.scale * static_cast<A>(kLog2E), tile.q, tile.width, scratch);
  tile.rel_h = tile.rel_w = nullptr;
  if (p.rel_h.data == nullptr) return;
  tile.rel_h = arena.take(p.height * tile.width);
  tile.rel_w = arena.take(p.width * tile.width);
  pack_transposed(p.rel_h.at(b, h), p.rel_h.stride_n, tile.index, tile.count, tile.width,
                  Columns{nullptr, 1, p.height}, static_cast<A>(kLog2E), tile.rel_h, tile.width, scratch);
  pack_transposed(p.rel_w.at(b, h), p.rel_w.stride_n, tile.index, tile.count, tile.width, Columns{nullptr, 1, p.width},
                  static_cast<A>(kLog2E), tile.rel_w, tile.width, scratch);
}

// ---- forward

template <typename T, typename A>
int64_t forward_scratch(const Forward<T, A>& p) {
  const int64_t tile = p.d + round_up(p.dv, kM) + p.height + p.width + 2;
  const int64_t tiles = std::min(kTilesPerTask, (p.nq + kTile<A> - 1) / kTile<A>);
  return shared_scratch(p) + tiles * (kTile<A> * tile + 128) + kTile<A> * round_up(p.dv, kM);
}

// A block of keys for the products of this problem: numbers of the accumulation type, or words.
template <typename T, typename A>
void pack_keys(const Forward<T, A>& p, int64_t b, int64_t h, Keys<A>& keys, A* scratch) {
#ifdef ZOO_BF16
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (p.words) {
      for (int64_t r = 0; r < keys.count; r += kM) {
        pack_words(p.k.at(b, h), p.k.stride_n, keys.index + r, std::min<int64_t>(kM, keys.count - r), kM, p.d,
                   words(keys.k) + r * pairs_of(p.d), kM);
      }
      pack_key_words(p.v.at(b, h), p.v.stride_n, keys.index, keys.count, p.dv, words(keys.v));
      return;
    }
  }
#endif
  pack_row_panels(p.k.at(b, h), p.k.stride_n, keys.index, keys.count, p.d, keys.k, scratch);
  pack_column_panels(p.v.at(b, h), p.v.stride_n, keys.index, keys.count, p.dv, keys.v, scratch);
}

template <typename T, typename A, int NV>
void meet(const Forward<T, A>& p, const T* bias, const Keys<A>& keys, Tile<A>& tile, A* scores, A* scratch) {
#ifdef ZOO_BF16
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (p.words) return attend_words<NV>(p, bias, keys, tile, scores, scratch);
  }
#endif
  attend<T, A, NV>(p, bias, keys, tile, scores, scratch);
}

// out and lse of the queries [first, last) of one head's list.
template <typename T, typename A>
void forward_task(const Forward<T, A>& p, int64_t b, int64_t h, int64_t first, int64_t last, Arena<A>& arena) {
  arena.reset();
  const int64_t* queries = p.queries.of(b);
  const int64_t* members = p.keys.of(b);
  const int64_t members_count = p.keys.count_of(b);
  const T* bias = p.bias == nullptr ? nullptr : p.bias + b * p.bias_b + h * p.bias_h;
  const int64_t columns = round_up(p.dv, kM);

  int64_t places[2][kKeys];
  Keys<A> keys{};
  keys.row = places[0];
  keys.column = places[1];
  const int64_t block = std::min(kKeys, members_count);
  keys.k = arena.take(round_up(block, kM) * p.d);
  keys.v = arena.take(block * columns);
  A* scores = arena.take(round_up(block, kM) * kTile<A>);
  A* scratch = arena.take(4 * std::max({p.d, p.dv, block, p.height, p.width}));

  Tile<A> tiles[kTilesPerTask];
  int64_t count = 0;
  for (int64_t i = first; i < last; ++count) {
    Tile<A>& tile = tiles[count];
    tile.index = queries + i;
    tile.width = tile_width<A>(last - i);
    tile.count = std::min(tile.width, last - i);
    pack_queries(p, b, h, tile, arena, scratch);
#ifdef ZOO_BF16
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (p.words) {
        pack_words(p.q.at(b, h), p.q.stride_n, tile.index, tile.count, tile.width, p.d, words(tile.q), tile.width);
      }
    }
#endif
    tile.out = arena.take(columns * tile.width);
    tile.max = arena.take(tile.width);
    tile.sum = arena.take(tile.width);
    std::fill(tile.out, tile.out + columns * tile.width, A(0));
    std::fill(tile.max, tile.max + tile.width, -std::numeric_limits<A>::infinity());
    std::fill(tile.sum, tile.sum + tile.width, A(0));
    i += tile.count;
  }

  for (int64_t key = 0; key < members_count; key += kKeys) {
    keys.index = members + key;
    keys.count = std::min(kKeys, members_count - key);
    if (p.causal && keys.index[0] > queries[last - 1]) break;
    pack_keys(p, b, h, keys, scratch);
    locate_keys(p, keys);
    for (int64_t i = 0; i < count; ++i) {
      Tile<A>& tile = tiles[i];
      if (p.causal && keys.index[0] > tile.index[tile.count - 1]) continue;
      switch (tile.width / kWidth<A>) {
        case 1: meet<T, A, 1>(p, bias, keys, tile, scores, scratch); break;
        case 2: meet<T, A, 2>(p, bias, keys, tile, scores, scratch); break;
        default: meet<T, A, kNV>(p, bias, keys, tile, scores, scratch);
      }
    }
  }

  A* rows = arena.take(kTile<A> * columns);
  for (int64_t i = 0; i < count; ++i) {
    const Tile<A>& tile = tiles[i];
    for (int64_t lane = 0; lane < tile.count; ++lane) {
      const A sum = tile.sum[lane];
      p.lse[(b * p.heads + h) * p.nq + tile.index[lane]] =
          sum == A(0) ? -std::numeric_limits<A>::infinity() : tile.max[lane] * static_cast<A>(kLn2) + std::log(sum);
      tile.sum[lane] = sum == A(0) ? A(0) : A(1) / sum;
    }
    transpose_tile(tile.out, tile.width, columns, rows);
    for (int64_t lane = 0; lane < tile.count; ++lane) {
      narrow(rows + lane * columns, p.dv, tile.sum[lane],
             p.out + ((b * p.nq + tile.index[lane]) * p.heads + h) * p.dv);
    }
  }
}

// Draws tasks until none is left: a run of queries of one head each, and for each set the zeros of its padding.
template <typename T, typename A>
void forward_tasks(const Forward<T, A>& p, Queue& queue) {
  constexpr int64_t chunk = kTilesPerTask * kTile<A>;
  const int64_t chunks = (p.nq + chunk - 1) / chunk;
  const int64_t tasks = p.batch * p.heads * chunks;
  Arena<A> arena(forward_scratch(p));
  for (int64_t task = queue.draw(); task < tasks + p.batch; task = queue.draw()) {
    if (task < tasks) {
      const int64_t head = task / chunks, b = head / p.heads;
      const int64_t first = task % chunks * chunk, last = std::min(p.queries.count_of(b), first + chunk);
      if (first < last) forward_task(p, b, head % p.heads, first, last, arena);
      continue;
    }
    const int64_t b = task - tasks, count = p.queries.count_of(b);
    const int64_t* index = p.queries.of(b);
    clear_gaps(p.out + b * p.nq * p.heads * p.dv, p.nq, p.heads * p.dv, index, count);
    for (int64_t h = 0; h < p.heads; ++h) {
      A* lse = p.lse + (b * p.heads + h) * p.nq;
      int64_t row = 0;
      for (int64_t i = 0; i <= count; ++i) {
        const int64_t next = i < count ? index[i] : p.nq;
        std::fill(lse + row, lse + next, -std::numeric_limits<A>::infinity());
        row = next + 1;
      }
    }
  }
}

// ---- backward

// The columns of a row that a product runs over, in whole vectors.
template <typename A>
int64_t row_length(int64_t d) {
  return round_up(d, kWidth<A>);
}

// sums [count][length] += left [count][width] (keys in rows) times right [width][length].
template <typename A, int AM, int NV>
inline void multiply_columns(const A* left, const A* right, int64_t length, int64_t column, int64_t count, A* sums) {
  typename Vector<A>::type acc[kM][NV];
  for (int64_t key = 0; key < count; key += kM) {
    A* to = sums + key * length + column;
    load<A, NV>(acc, to, length);
    accumulate<A, NV, 1, AM>(acc, left + key * AM, right + column, length, AM);
    store<A, NV>(acc, to, length);
  }
}

template <typename A, int AM>
void multiply_rows(const A* left, const A* right, int64_t length, int64_t count, A* sums) {
  int64_t left_over = length / kWidth<A>;
  int64_t column = 0;
  while (left_over > 0) {
    const int64_t vectors = left_over == 4 ? 2 : std::min<int64_t>(kNV, left_over);  // 4 = 2 + 2, rather than 3 + 1
    switch (vectors) {
      case 1: multiply_columns<A, AM, 1>(left, right, length, column, count, sums); break;
      case 2: multiply_columns<A, AM, 2>(left, right, length, column, count, sums); break;
      default: multiply_columns<A, AM, kNV>(left, right, length, column, count, sums);
    }
    column += vectors * kWidth<A>;
    left_over -= vectors;
  }
}

template <typename A>
struct KeyGradients {
  A* k;  // [round_up(count, kM)][row_length(d)]
  A* v;  // [round_up(count, kM)][row_length(dv)]
};

// dbias += d scores, over whatever the bias was broadcast.
template <typename T, typename A>
void add_bias_gradient(const Backward<T, A>& p, A* dbias, const Keys<A>& keys, const Tile<A>& tile, const A* dscores) {
  for (int64_t lane = 0; lane < tile.count; ++lane) {
    A* row = dbias + tile.index[lane] * p.dbias_q;
    for (int64_t key = 0; key < keys.count; ++key) {
      row[keys.index[key] * p.dbias_k] += dscores[key * tile.width + lane];
    }
  }
}

template <typename T, typename A, int NV>
void attend_backward(const Backward<T, A>& p, const T* bias, A* dbias, const Keys<A>& keys, Tile<A>& tile,
                     const KeyGradients<A>& sums, A* weights, A* dscores, A* scratch) {
  using V = typename Vector<A>::type;
  constexpr int width = NV * kWidth<A>;
  scores_of<T, A, NV>(p, bias, keys, tile, weights, scratch);
  V lse[NV], delta[NV];
  for (int v = 0; v < NV; ++v) {
    lse[v] = reinterpret_cast<const V*>(tile.lse)[v];
    delta[v] = reinterpret_cast<const V*>(tile.delta)[v];
  }
  for (int64_t key = 0; key < round_up(keys.count, kM); ++key) {
    V* row = reinterpret_cast<V*>(weights + key * width);
    for (int v = 0; v < NV; ++v) {
      // Scores of 1e9 are rounded to 64: summed in another order than in the forward pass, one may lie above the sum of
      // all by that much. No weight is above 1.
      const V over = row[v] - lse[v];
      row[v] = key < keys.count ? exp2(over > V{} ? V{} : over) : V{};
    }
  }
  for (int64_t key = 0; key < keys.count; key += kM) {
    V acc[kM][NV] = {};
    accumulate<A, NV, kM, 1>(acc, keys.v + key * p.dv, tile.grad, width, p.dv);
    const A* weight = weights + key * width;
    A* to = dscores + key * width;
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        const V share = reinterpret_cast<const V*>(weight + m * width)[v];
        reinterpret_cast<V*>(to + m * width)[v] = share == V{} ? V{} : share * (acc[m][v] - delta[v]);
      }
    }
  }
  multiply_rows<A, width>(weights, tile.grad_rows, row_length<A>(p.dv), keys.count, sums.v);
  multiply_rows<A, width>(dscores, tile.q_rows, row_length<A>(p.d), keys.count, sums.k);
  for (int64_t c = 0; c < p.d; c += kM) {
    V acc[kM][NV];
    load<A, NV>(acc, tile.dq + c * width, width);
    accumulate<A, NV, kM, 1>(acc, keys.k_column + c * keys.count, dscores, width, keys.count);
    store<A, NV>(acc, tile.dq + c * width, width);
  }
  if (tile.drel_h != nullptr) {
    for (int64_t key = 0; key < keys.count; ++key) {
      V* h = reinterpret_cast<V*>(tile.drel_h + keys.row[key] * width);
      V* w = reinterpret_cast<V*>(tile.drel_w + keys.column[key] * width);
      const V* from = reinterpret_cast<const V*>(dscores + key * width);
      for (int v = 0; v < NV; ++v) {
        h[v] += from[v];
        w[v] += from[v];
      }
    }
  }
  if (dbias != nullptr) add_bias_gradient(p, dbias, keys, tile, dscores);
}

template <typename T, typename A>
int64_t backward_scratch(const Backward<T, A>& p) {
  const int64_t d = round_up(p.d, kM), dv = round_up(p.dv, kM);
  const int64_t tile = 2 * d + dv + row_length<A>(p.d) + row_length<A>(p.dv) + 2 * (p.height + p.width) + 2;
  const int64_t tiles = (p.nq + kTile<A> - 1) / kTile<A>;
  const int64_t keys = round_up(std::min(kKeys, p.nk), kM);
  return shared_scratch(p) + tiles * (kTile<A> * tile + 256) + keys * (row_length<A>(p.d) + row_length<A>(p.dv)) +
         2 * std::max(p.d, p.dv);
}

// rows [n][columns], those of `index` = the transposed tile, times factor.
template <typename A>
void write_transposed(const A* tile, int64_t width, const int64_t* index, int64_t count, int64_t columns, A factor,
                    A* rows) {
  for (int64_t lane = 0; lane < count; ++lane) {
    A* row = rows + index[lane] * columns;
    for (int64_t c = 0; c < columns; ++c) row[c] = tile[c * width + lane] * factor;
  }
}

// The gradients of one head from the keys [first, last) of its list: dk and dv of these keys, and their share of dq,
// drel_h, drel_w and dbias.
template <typename T, typename A>
void backward_task(const Backward<T, A>& p, int64_t b, int64_t h, int64_t split, int64_t first, int64_t last,
                   Arena<A>& arena, Tile<A>* tiles) {
  arena.reset();
  const int64_t* queries = p.queries.of(b);
  const int64_t queries_count = p.queries.count_of(b);
  const int64_t* members = p.keys.of(b);
  const int64_t head = b * p.heads + h;
  const int64_t slice = (split * p.batch * p.heads + head) * p.nq;
  const T* bias = p.bias == nullptr ? nullptr : p.bias + b * p.bias_b + h * p.bias_h;
  A* dbias = p.dbias == nullptr ? nullptr : p.dbias + b * p.dbias_b + h * p.dbias_h;
  const int64_t q_length = row_length<A>(p.d), v_length = row_length<A>(p.dv);

  int64_t places[2][kKeys];
  Keys<A> keys{};
  keys.row = places[0];
  keys.column = places[1];
  const int64_t block = std::min(kKeys, last - first), padded = round_up(block, kM);
  keys.k = arena.take(padded * p.d);
  keys.v = arena.take(padded * p.dv);
  keys.k_column = arena.take(block * round_up(p.d, kM));
  A* weights = arena.take(padded * kTile<A>);
  A* dscores = arena.take(padded * kTile<A>);
  A* scratch = arena.take(4 * std::max({p.d, p.dv, block, p.height, p.width}));
  const KeyGradients<A> sums{arena.take(padded * q_length), arena.take(padded * v_length)};
  A* row_a = arena.take(p.dv);
  A* row_b = arena.take(p.dv);

  int64_t count = 0;
  for (int64_t i = 0; i < queries_count; ++count) {
    Tile<A>& tile = tiles[count];
    tile.index = queries + i;
    tile.width = tile_width<A>(queries_count - i);
    tile.count = std::min(tile.width, queries_count - i);
    pack_queries(p, b, h, tile, arena, scratch);
    tile.grad = arena.take(p.dv * tile.width);
    tile.grad_rows = arena.take(tile.width * v_length);
    tile.q_rows = arena.take(tile.width * q_length);
    tile.lse = arena.take(tile.width);
    tile.delta = arena.take(tile.width);
    tile.dq = arena.take(round_up(p.d, kM) * tile.width);
    tile.drel_h = tile.rel_h == nullptr ? nullptr : arena.take(p.height * tile.width);
    tile.drel_w = tile.rel_w == nullptr ? nullptr : arena.take(p.width * tile.width);
    const T* grad = p.grad.at(b, h);
    pack_transposed(grad, p.grad.stride_n, tile.index, tile.count, tile.width, Columns{nullptr, 1, p.dv}, A(1),
                    tile.grad, tile.width, scratch);
    pack_rows(grad, p.grad.stride_n, tile.index, tile.count, p.dv, A(1), tile.grad_rows, v_length);
    std::fill(tile.grad_rows + tile.count * v_length, tile.grad_rows + tile.width * v_length, A(0));
    pack_rows(p.q.at(b, h), p.q.stride_n, tile.index, tile.count, p.d, p.scale, tile.q_rows, q_length);
    std::fill(tile.q_rows + tile.count * q_length, tile.q_rows + tile.width * q_length, A(0));
    for (int64_t lane = 0; lane < tile.width; ++lane) {
      // An empty lane, or a query that met nothing but masked keys: 2^(score - inf) = 0.
      tile.lse[lane] = std::numeric_limits<A>::infinity();
      tile.delta[lane] = A(0);
      if (lane >= tile.count) continue;
      const A lse = p.lse[head * p.nq + tile.index[lane]];
      if (lse != -std::numeric_limits<A>::infinity()) tile.lse[lane] = lse * static_cast<A>(kLog2E);
      widen(grad + tile.index[lane] * p.grad.stride_n, p.dv, row_a);
      widen(p.out.at(b, h) + tile.index[lane] * p.out.stride_n, p.dv, row_b);
      A delta = 0;
      for (int64_t c = 0; c < p.dv; ++c) delta += row_a[c] * row_b[c];
      tile.delta[lane] = delta;
    }
    std::fill(tile.dq, tile.dq + round_up(p.d, kM) * tile.width, A(0));
    if (tile.drel_h != nullptr) {
      std::fill(tile.drel_h, tile.drel_h + p.height * tile.width, A(0));
      std::fill(tile.drel_w, tile.drel_w + p.width * tile.width, A(0));
    }
    i += tile.count;
  }

  for (int64_t key = first; key < last; key += kKeys) {
    keys.index = members + key;
    keys.count = std::min(kKeys, last - key);
    pack_row_panels(p.k.at(b, h), p.k.stride_n, keys.index, keys.count, p.d, keys.k, scratch);
    pack_row_panels(p.v.at(b, h), p.v.stride_n, keys.index, keys.count, p.dv, keys.v, scratch);
    pack_column_panels(p.k.at(b, h), p.k.stride_n, keys.index, keys.count, p.d, keys.k_column, scratch);
    locate_keys(p, keys);
    std::fill(sums.k, sums.k + round_up(keys.count, kM) * q_length, A(0));
    std::fill(sums.v, sums.v + round_up(keys.count, kM) * v_length, A(0));
    for (int64_t i = 0; i < count; ++i) {
      Tile<A>& tile = tiles[i];
      if (p.causal && keys.index[0] > tile.index[tile.count - 1]) continue;
      switch (tile.width / kWidth<A>) {
        case 1:
          attend_backward<T, A, 1>(p, bias, dbias, keys, tile, sums, weights, dscores, scratch);
          break;
        case 2:
          attend_backward<T, A, 2>(p, bias, dbias, keys, tile, sums, weights, dscores, scratch);
          break;
        default:
          attend_backward<T, A, kNV>(p, bias, dbias, keys, tile, sums, weights, dscores, scratch);
      }
    }
    for (int64_t j = 0; j < keys.count; ++j) {
      narrow(sums.k + j * q_length, p.d, A(1), p.dk + (head * p.nk + keys.index[j]) * p.d);
      narrow(sums.v + j * v_length, p.dv, A(1), p.dv_out + (head * p.nk + keys.index[j]) * p.dv);
    }
  }

  for (int64_t i = 0; i < count; ++i) {
    const Tile<A>& tile = tiles[i];
    write_transposed(tile.dq, tile.width, tile.index, tile.count, p.d, p.scale, p.dq + slice * p.d);
    if (tile.drel_h == nullptr) continue;
    write_transposed(tile.drel_h, tile.width, tile.index, tile.count, p.height, A(1), p.drel_h + slice * p.height);
    write_transposed(tile.drel_w, tile.width, tile.index, tile.count, p.width, A(1), p.drel_w + slice * p.width);
  }
}

// The gradients' zeros for the padding of one head.
template <typename T, typename A>
void fill_padding(const Backward<T, A>& p, int64_t b, int64_t h, int64_t split) {
  const int64_t head = b * p.heads + h, slice = (split * p.batch * p.heads + head) * p.nq;
  const int64_t *queries = p.queries.of(b), *keys = p.keys.of(b);
  const int64_t queries_count = p.queries.count_of(b), keys_count = p.keys.count_of(b);
  clear_gaps(p.dq + slice * p.d, p.nq, p.d, queries, queries_count);
  if (p.drel_h != nullptr) {
    clear_gaps(p.drel_h + slice * p.height, p.nq, p.height, queries, queries_count);
    clear_gaps(p.drel_w + slice * p.width, p.nq, p.width, queries, queries_count);
  }
  if (split > 0) return;
  clear_gaps(p.dk + head * p.nk * p.d, p.nk, p.d, keys, keys_count);
  clear_gaps(p.dv_out + head * p.nk * p.dv, p.nk, p.dv, keys, keys_count);
}

// Draws tasks until none is left: a group of heads and a run of keys each.
template <typename T, typename A>
void backward_tasks(const Backward<T, A>& p, Queue& queue) {
  const int64_t groups_b = p.groups_b(), groups_h = p.groups_h();
  Arena<A> arena(backward_scratch(p));
  std::vector<Tile<A>> tiles((p.nq + kTile<A> - 1) / kTile<A>);
  for (int64_t task = queue.draw(); task < groups_b * groups_h * p.splits; task = queue.draw()) {
    const int64_t group = task / p.splits, split = task % p.splits;
    const int64_t first_b = groups_b == 1 ? 0 : group / groups_h, last_b = groups_b == 1 ? p.batch : first_b + 1;
    const int64_t first_h = groups_h == 1 ? 0 : group % groups_h, last_h = groups_h == 1 ? p.heads : first_h + 1;
    for (int64_t b = first_b; b < last_b; ++b) {
      const int64_t count = p.keys.count_of(b), blocks = (count + kKeys - 1) / kKeys;
      const int64_t first = blocks * split / p.splits * kKeys;
      const int64_t last = std::min(count, blocks * (split + 1) / p.splits * kKeys);
      for (int64_t h = first_h; h < last_h; ++h) {
        fill_padding(p, b, h, split);
        backward_task(p, b, h, split, first, last, arena, tiles.data());
      }
    }
  }
}

#undef ZOO_SHUFFLE
#undef ZOO_BF16

}  // namespace zoo::masked_attention::ZOO_SIMD_LEVEL
