// Register-tiled dot products, the core that operators share: Rows vectors of any strides (cells, bank entries) meet a
// panel of packed columns (prototypes, queries). SIMD lanes run over the columns, so that whatever an operator keeps
// per column (a running maximum, the score to beat) is updated lane by lane.
//
// Part of kernel files (see common/for_each_simd_level.h), which include it before they open their own namespace.
namespace zoo::panels::ZOO_SIMD_LEVEL {

template <typename A>
struct Vector {
  typedef A type __attribute__((vector_size(ZOO_SIMD_BYTES)));
  static constexpr int64_t width = ZOO_SIMD_BYTES / static_cast<int64_t>(sizeof(A));
};
template <typename A>
using vector_t = typename Vector<A>::type;

// Rows per register block: rows x 2 accumulators + 2 vectors of columns + 1 broadcast in 32 (AVX-512) or 16 registers.
constexpr int kRows = ZOO_SIMD_BYTES == 64 ? 12 : 6;

template <typename A>
constexpr int64_t kColumns = 2 * Vector<A>::width;  // of a whole panel; the last one may have half of them

// Rows as multiply() reads them: element k of row r is data[r * stride_row + k * stride_k].
template <typename A>
struct Rows {
  const A* data;
  int64_t stride_row, stride_k;
};

// A tile of rows, met one block of at most kRows after the other. The cut is even, so that no block is left with a row
// or two. Rows lie whole, stride_row apart, or block by block as [d][rows of the block] (stride_row is 0 then).
template <typename A>
struct Tile {
  const A* data;
  int64_t count, d, stride_row;

  int64_t blocks() const { return (count + kRows - 1) / kRows; }
  int64_t start(int64_t block) const { return count * block / blocks(); }
  Rows<A> rows(int64_t block) const {
    if (stride_row == 0) return {data + start(block) * d, 1, start(block + 1) - start(block)};
    return {data + start(block) * stride_row, stride_row, 1};
  }
};

// ---- Widening: contiguous int8, float16, bfloat16, float32 or float64 to the type of accumulation.

inline void widen(const float* in, float* out, int64_t count) { std::copy_n(in, count, out); }
inline void widen(const double* in, double* out, int64_t count) { std::copy_n(in, count, out); }

inline void widen(const BFloat16* in, float* out, int64_t count) {
  typedef uint16_t Narrow __attribute__((vector_size(ZOO_SIMD_BYTES / 2)));
  typedef uint32_t Wide __attribute__((vector_size(ZOO_SIMD_BYTES)));
  constexpr int64_t width = Vector<float>::width;
  int64_t i = 0;
  for (; i + width <= count; i += width) {
    Narrow bits;
    std::memcpy(&bits, in + i, sizeof(bits));
    const Wide shifted = __builtin_convertvector(bits, Wide) << 16;
    std::memcpy(out + i, &shifted, sizeof(shifted));
  }
  for (; i < count; ++i) out[i] = static_cast<float>(in[i]);
}

inline void widen(const Half* in, float* out, int64_t count) {
  int64_t i = 0;
#if ZOO_SIMD_BYTES > 16  // these levels have F16C
  typedef short Narrow __attribute__((vector_size(16)));
  typedef float Wide __attribute__((vector_size(32)));
  for (; i + 8 <= count; i += 8) {
    Narrow bits;
    std::memcpy(&bits, in + i, sizeof(bits));
    const Wide wide = __builtin_ia32_vcvtph2ps256(bits);
    std::memcpy(out + i, &wide, sizeof(wide));
  }
#endif
  for (; i < count; ++i) out[i] = static_cast<float>(in[i]);
}

inline void widen(const int8_t* in, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(in[i]);
}

// ---- Squared lengths

template <typename A>
inline A sum_of_lanes(vector_t<A> x) {
  A lanes[Vector<A>::width];
  std::memcpy(lanes, &x, sizeof(x));
  for (int64_t half = Vector<A>::width / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

template <typename A>
A sum_of_squares(const A* row, int64_t d) {
  using V = vector_t<A>;
  constexpr int64_t width = Vector<A>::width;
  V sums[4] = {};
  int64_t k = 0;
  for (; k + 4 * width <= d; k += 4 * width) {
    for (int i = 0; i < 4; ++i) {
      V x;
      std::memcpy(&x, row + k + i * width, sizeof(x));
      sums[i] += x * x;
    }
  }
  A sum = sum_of_lanes<A>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; k < d; ++k) sum += row[k] * row[k];
  return sum;
}

template <typename A>
bool finite(A x) {
  return x - x == A(0);
}

template <typename A>
A inverse_length(A square) {
  const A length = std::sqrt(square);
  return length > static_cast<A>(kZeroLength) ? A(1) / length : A(0);
}

// ---- Loading rows

// One block of R neighbouring rows, as [d][R]. The cells of a feature map are neighbours, but their elements lie far
// apart: the copy spares the multiplication the misses of every panel but the first.
template <typename T, typename A, int R>
void copy_neighbours(const T* data, int64_t d, int64_t stride_k, A* __restrict out, A* __restrict squares) {
  constexpr int64_t kAhead = 32;
  A sums[R] = {};
  for (int64_t k = 0; k < d; ++k) {
    A line[R];
    // No processor foresees lines this far apart. (As a number: the last ones lie beyond the tensor.)
    const uintptr_t ahead = reinterpret_cast<uintptr_t>(data) + kAhead * stride_k * sizeof(T);
    __builtin_prefetch(reinterpret_cast<const void*>(ahead));
    __builtin_prefetch(reinterpret_cast<const void*>(ahead + (R - 1) * sizeof(T)));
    if constexpr (std::is_same_v<T, A>) {
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) line[r] = data[r];
    } else {
      widen(data, line, R);
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) out[r] = line[r];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) sums[r] += line[r] * line[r];
    data += stride_k;
    out += R;
  }
  for (int r = 0; r < R; ++r) squares[r] = sums[r];
}

template <typename T, typename A>
void copy_neighbours(int64_t count, const T* data, int64_t d, int64_t stride_k, A* out, A* squares) {
  switch (count) {
    case 1: return copy_neighbours<T, A, 1>(data, d, stride_k, out, squares);
    case 2: return copy_neighbours<T, A, 2>(data, d, stride_k, out, squares);
    case 3: return copy_neighbours<T, A, 3>(data, d, stride_k, out, squares);
    case 4: return copy_neighbours<T, A, 4>(data, d, stride_k, out, squares);
    case 5: return copy_neighbours<T, A, 5>(data, d, stride_k, out, squares);
    case 6: return copy_neighbours<T, A, 6>(data, d, stride_k, out, squares);
#if ZOO_SIMD_BYTES == 64
    case 7: return copy_neighbours<T, A, 7>(data, d, stride_k, out, squares);
    case 8: return copy_neighbours<T, A, 8>(data, d, stride_k, out, squares);
    case 9: return copy_neighbours<T, A, 9>(data, d, stride_k, out, squares);
    case 10: return copy_neighbours<T, A, 10>(data, d, stride_k, out, squares);
    case 11: return copy_neighbours<T, A, 11>(data, d, stride_k, out, squares);
    case 12: return copy_neighbours<T, A, 12>(data, d, stride_k, out, squares);
#endif
  }
}

// A tile of rows of any type and strides, with their squared lengths. Uses buffer [count * d] unless the rows lie well
// already. Returns false when a squared length is not finite.
template <typename T, typename A>
bool load(const T* data, int64_t count, int64_t d, int64_t stride_row, int64_t stride_k, A* buffer, A* squares,
          Tile<A>* tile) {
  if (stride_k == 1 && std::is_same_v<T, A> && stride_row > 0) {
    *tile = {reinterpret_cast<const A*>(data), count, d, stride_row};
    for (int64_t r = 0; r < count; ++r) squares[r] = sum_of_squares(tile->data + r * stride_row, d);
  } else if (stride_row == 1) {
    *tile = {buffer, count, d, 0};
    for (int64_t i = 0; i < tile->blocks(); ++i) {
      const int64_t first = tile->start(i);
      copy_neighbours(tile->start(i + 1) - first, data + first, d, stride_k, buffer + first * d, squares + first);
    }
  } else {
    *tile = {buffer, count, d, d};
    for (int64_t r = 0; r < count; ++r) {
      const T* in = data + r * stride_row;
      A* out = buffer + r * d;
      if (stride_k == 1) {
        widen(in, out, d);
      } else {
        for (int64_t k = 0; k < d; ++k) out[k] = static_cast<A>(in[k * stride_k]);
      }
      squares[r] = sum_of_squares(out, d);
    }
  }
  bool all_finite = true;
  for (int64_t r = 0; r < count; ++r) all_finite &= finite(squares[r]);
  return all_finite;
}

// ---- Packing columns

// One panel [d][columns] from rows of [count][d], scaled to unit length if asked, padded with zeros up to columns;
// columns is one vector or two. Returns false when a squared length is not finite.
template <typename T, typename A>
bool pack_panel(const T* data, int64_t count, int64_t columns, int64_t d, int64_t stride_row, int64_t stride_k,
                bool unit, A* panel) {
  A squares[kColumns<A>] = {};
  for (int64_t k = 0; k < d; ++k) {
    A* out = panel + k * columns;
    for (int64_t c = 0; c < count; ++c) {
      out[c] = static_cast<A>(data[c * stride_row + k * stride_k]);
      squares[c] += out[c] * out[c];
    }
    for (int64_t c = count; c < columns; ++c) out[c] = A(0);
  }
  bool all_finite = true;
  for (int64_t c = 0; c < count; ++c) all_finite &= finite(squares[c]);
  if (!unit) return all_finite;
  for (int64_t c = 0; c < columns; ++c) squares[c] = inverse_length(squares[c]);
  for (int64_t k = 0; k < d; ++k) {
    for (int64_t c = 0; c < columns; ++c) panel[k * columns + c] *= squares[c];
  }
  return all_finite;
}

// ---- Multiplying

// dots[r][v] = row r times vector v of the panel's columns.
template <typename A, int R, int V>
inline __attribute__((always_inline)) void multiply(const Rows<A>& rows, const A* panel, int64_t d,
                                                    vector_t<A> (&dots)[R][V]) {
  using Vec = vector_t<A>;
  constexpr int64_t width = Vector<A>::width;
  // Every third row has its own pointer: the two after it are one and two strides away, which x86 addresses for free.
  const A* base[(R + 2) / 3];
#pragma GCC unroll 4
  for (int i = 0; i < (R + 2) / 3; ++i) base[i] = rows.data + 3 * i * rows.stride_row;
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) dots[r][v] = Vec{};
  }
  for (int64_t k = 0; k < d; ++k) {
    Vec column[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) column[v] = *reinterpret_cast<const Vec*>(panel + v * width);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const A x = base[r / 3][r % 3 * rows.stride_row];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) dots[r][v] += column[v] * x;
    }
    panel += V * width;
#pragma GCC unroll 4
    for (int i = 0; i < (R + 2) / 3; ++i) base[i] += rows.stride_k;
  }
}

template <typename A, int R, int V, typename Keep>
__attribute__((noinline)) void meet_block(const Rows<A>& rows, int64_t first_row, const A* panel, int64_t d, Keep& keep) {
  vector_t<A> dots[R][V];
  multiply<A, R, V>(rows, panel, d, dots);
  keep.template operator()<R, V>(dots, first_row);
}

template <typename A, int V, typename Keep>
void meet_block(int64_t count, const Rows<A>& rows, int64_t first, const A* panel, int64_t d, Keep& keep) {
  switch (count) {
    case 1: return meet_block<A, 1, V>(rows, first, panel, d, keep);
    case 2: return meet_block<A, 2, V>(rows, first, panel, d, keep);
    case 3: return meet_block<A, 3, V>(rows, first, panel, d, keep);
    case 4: return meet_block<A, 4, V>(rows, first, panel, d, keep);
    case 5: return meet_block<A, 5, V>(rows, first, panel, d, keep);
    case 6: return meet_block<A, 6, V>(rows, first, panel, d, keep);
#if ZOO_SIMD_BYTES == 64
    case 7: return meet_block<A, 7, V>(rows, first, panel, d, keep);
    case 8: return meet_block<A, 8, V>(rows, first, panel, d, keep);
    case 9: return meet_block<A, 9, V>(rows, first, panel, d, keep);
    case 10: return meet_block<A, 10, V>(rows, first, panel, d, keep);
    case 11: return meet_block<A, 11, V>(rows, first, panel, d, keep);
    case 12: return meet_block<A, 12, V>(rows, first, panel, d, keep);
#endif
  }
}

// All rows of a tile with one panel of `columns` columns: keep.operator()<R, V>(dots, first_row) takes what each block
// gives, blocks in ascending order.
template <typename A, typename Keep>
void meet(const Tile<A>& tile, const A* panel, int64_t columns, Keep& keep) {
  for (int64_t i = 0; i < tile.blocks(); ++i) {
    const int64_t first = tile.start(i), count = tile.start(i + 1) - first;
    if (columns > Vector<A>::width) {
      meet_block<A, 2>(count, tile.rows(i), first, panel, tile.d, keep);
    } else {
      meet_block<A, 1>(count, tile.rows(i), first, panel, tile.d, keep);
    }
  }
}

// Panel i of `count` columns: where it starts in the packed buffer, and how many columns it stores.
template <typename A>
int64_t stored_columns(int64_t count, int64_t i) {
  return count - i * kColumns<A> > Vector<A>::width ? kColumns<A> : Vector<A>::width;
}

}  // namespace zoo::panels::ZOO_SIMD_LEVEL
