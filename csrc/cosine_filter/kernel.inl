// The scalar core, compiled once per SIMD level. Gradients are read in blocks of columns that stay in the second-level
// cache, four rows at a time; everything that is summed is summed in double, along vectors of columns.
namespace zoo::cosine_filter::ZOO_SIMD_LEVEL {

constexpr int64_t kLanes = ZOO_SIMD_BYTES / 8;
constexpr int64_t kStep = 64 / 4;  // columns per turn of a loop: one cache line of floats, whole vectors at every level
constexpr int kGroup = 4;          // rows that share the traffic of a column's accumulator

typedef double Wide __attribute__((vector_size(ZOO_SIMD_BYTES)));
typedef float Narrow __attribute__((vector_size(ZOO_SIMD_BYTES / 2)));

inline Wide load(const double* p) {
  Wide v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// GCC 12 makes four instructions of __builtin_convertvector where the processor has one. (The masked form spares a
// warning about undefined lanes; all of them are set.)
inline Wide load(const float* p) {
#if ZOO_SIMD_X86 && ZOO_SIMD_BYTES == 64
  return (Wide)_mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(p));
#elif ZOO_SIMD_X86 && ZOO_SIMD_BYTES == 32
  return (Wide)_mm256_cvtps_pd(_mm_loadu_ps(p));
#else
  Narrow v;
  __builtin_memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Wide);
#endif
}

inline void store(double* p, Wide v) { __builtin_memcpy(p, &v, sizeof v); }

// Into the caches: a block is worked on while the next one arrives there.
inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }

inline Wide absolute(Wide v) { return v < 0 ? -v : v; }

inline Wide root(Wide v) {
#if ZOO_SIMD_X86 && ZOO_SIMD_BYTES == 64
  return (Wide)_mm512_maskz_sqrt_pd(0xff, (__m512d)v);
#elif ZOO_SIMD_X86 && ZOO_SIMD_BYTES == 32
  return (Wide)_mm256_sqrt_pd((__m256d)v);
#else
  for (int64_t i = 0; i < kLanes; ++i) v[i] = __builtin_sqrt(v[i]);
  return v;
#endif
}

inline double sum(Wide v) {
  double total = 0;
  for (int64_t i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

// ---- Philox 4x32-10 and Box-Muller: the noise of sample `row` at column j is number j % 4 of counter (j / 4, row).

inline void philox(uint32_t c[4], uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
    const uint32_t a = static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0;
    const uint32_t b = static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1;
    c[1] = static_cast<uint32_t>(p1);
    c[3] = static_cast<uint32_t>(p0);
    c[0] = a;
    c[2] = b;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// log(x) for positive normal x (Cephes' logf: the mantissa in [sqrt(1/2), sqrt(2)) by a polynomial).
inline float logarithm(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  const uint32_t shifted = bits - 0x3f3504f3u;
  const float exponent = static_cast<float>(static_cast<int32_t>(shifted) >> 23);
  bits = (shifted & 0x007fffffu) + 0x3f3504f3u;
  float m;
  __builtin_memcpy(&m, &bits, 4);
  m -= 1.0f;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const float square = m * m;
  return m + (p * m * square - 0.5f * square + exponent * 0.69314718056f);
}

// cos and sin of the angle turn / 2^32 of a full turn: polynomials on an eighth turn either side of a quadrant's middle.
inline void circle(uint32_t turn, float& cosine, float& sine) {
  const uint32_t quadrant = turn >> 30;
  const float part = static_cast<float>(static_cast<int32_t>(turn & 0x3fffffffu));
  const float t = (part * 9.31322574615e-10f - 0.5f) * 1.57079632679f;
  const float square = t * t;
  const float s = t + t * square * (-1.6666654611e-1f + square * (8.3321608736e-3f - square * 1.9515295891e-4f));
  const float higher = 4.166664568298827e-2f + square * (-1.388731625493765e-3f + square * 2.443315711809948e-5f);
  const float c = 1.0f - 0.5f * square + square * square * higher;
  const float x = (c - s) * 0.70710678119f, y = (c + s) * 0.70710678119f;
  const float u = quadrant & 1 ? y : x, v = quadrant & 1 ? x : y;
  cosine = quadrant == 1 || quadrant == 2 ? -u : u;
  sine = quadrant >= 2 ? -v : v;
}

// out [width] = scale * normal numbers for columns [c0, c0 + width); c0 and width are multiples of 4.
template <typename A>
void fill_noise(A* out, int64_t c0, int64_t width, uint64_t row, uint64_t seed, double scale) {
  constexpr int64_t kCounters = 64;
  float normal[4][kCounters];
  for (int64_t q0 = 0; q0 < width / 4; q0 += kCounters) {
    for (int64_t i = 0; i < kCounters; ++i) {
      const uint64_t counter = static_cast<uint64_t>(c0 / 4 + q0 + i);
      uint32_t c[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                       static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32)};
      philox(c, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
      for (int pair = 0; pair < 2; ++pair) {
        const float uniform = static_cast<float>(c[2 * pair]) * 2.3283064365e-10f + 1.1641532183e-10f;
        const float radius = __builtin_sqrtf(-2.0f * logarithm(uniform));
        float cosine, sine;
        circle(c[2 * pair + 1], cosine, sine);
        normal[2 * pair][i] = radius * cosine;
        normal[2 * pair + 1][i] = radius * sine;
      }
    }
    const int64_t count = std::min(kCounters, width / 4 - q0);
    for (int64_t i = 0; i < count; ++i) {
      for (int lane = 0; lane < 4; ++lane) out[4 * (q0 + i) + lane] = static_cast<A>(scale * normal[lane][i]);
    }
  }
}

// ---- One block of columns.

// The block's rows as unit-stride A, a whole number of steps wide: in place where the input is so already.
template <typename T, typename A>
class Block {
 public:
  explicit Block(const Matrix<T, A>& matrix)
      : m_(matrix),
        in_place_(matrix.in_place()),
        tile_(matrix.width * matrix.n),
        noise_tile_(matrix.kind == Noise::independent ? matrix.width * matrix.n : 0),
        x_(matrix.n),
        z_(matrix.n) {
    for (int64_t i = 0; i < m_.n; ++i) z_[i] = noise_tile_.data() + (m_.kind == Noise::independent ? i * m_.width : 0);
  }

  void open(int64_t block) {
    first = block * m_.width;
    count = std::min(m_.width, m_.f - first);
    width = (count + kStep - 1) / kStep * kStep;
    const bool in_place = in_place_ && count == width;
    ahead = in_place && first + count + m_.reach <= m_.f ? m_.reach : 0;
    for (int64_t i = 0; i < m_.n; ++i) {
      const T* row = m_.data + m_.rows[i] * m_.stride_b + first * m_.stride_f;
      if (in_place) {
        x_[i] = reinterpret_cast<const A*>(row);
      } else {
        A* out = tile_.data() + i * m_.width;
        if (m_.stride_f == 1) {
          for (int64_t j = 0; j < count; ++j) out[j] = static_cast<A>(row[j]);
        } else {
          for (int64_t j = 0; j < count; ++j) out[j] = static_cast<A>(row[j * m_.stride_f]);
        }
        for (int64_t j = count; j < width; ++j) out[j] = A(0);
        x_[i] = out;
      }
      if (m_.kind == Noise::independent) {
        A* noise = noise_tile_.data() + i * m_.width;
        fill_noise(noise, first, width, static_cast<uint64_t>(m_.rows[i]), m_.seed, m_.noise_scale);
        for (int64_t j = count; j < width; ++j) noise[j] = A(0);
      }
    }
  }

  // out [width] = the shared noise, scaled; zero without one.
  void shared_noise(double* out) const {
    const int64_t there = m_.kind == Noise::shared ? count : 0;
    const A* noise = m_.noise + first;
    const double scale = m_.noise_scale;
    for (int64_t j = 0; j < there; ++j) out[j] = scale * static_cast<double>(noise[j]);
    std::fill(out + there, out + width, 0.0);
  }

  const A* const* rows(int64_t i) const { return &x_.data()[i]; }
  const A* const* noise(int64_t i) const { return &z_.data()[i]; }

  int64_t first = 0, count = 0, width = 0;
  int64_t ahead = 0;  // from a place in a row to what is asked for meanwhile (0 where there is nothing)

 private:
  const Matrix<T, A>& m_;
  const bool in_place_;
  simd::Buffer<A> tile_, noise_tile_;
  simd::Buffer<const A*> x_, z_;
};

// Copies that no store can alias, so that the loops keep them in registers.
template <int R, typename A>
struct Rows {
  explicit Rows(const A* const* rows) {
    for (int r = 0; r < R; ++r) at[r] = rows[r];
  }
  const A* operator[](int r) const { return at[r]; }
  const A* at[R];
};

template <int R>
struct Factors {
  explicit Factors(const double* factors) {
    for (int r = 0; r < R; ++r) at[r] = factors[r];
  }
  double operator[](int r) const { return at[r]; }
  double at[R];
};

// ---- Row sums. Of every group, the first sweep over a block asks for some rows of the next block and the second sweep
// for the others, so that memory is never idle.

constexpr int kPrefetched = kGroup / 2;

template <int R, Noise kNoise, bool kMasked, typename A>
inline void add_rows(const A* const* x_rows, const A* const* z_rows, int64_t ahead, int prefetched,
                     const double* z, const double* mask, double share, int64_t width, double* column, double* sums,
                     int64_t n) {
  const Rows<R, A> x(x_rows), w_rows(z_rows);
  Wide xx[R] = {}, xz[R] = {}, zz[R] = {};
  for (int64_t j0 = 0; j0 < width; j0 += kStep) {
    for (int r = 0; r < R && r < prefetched; ++r) prefetch(x[r] + ahead + j0);
    for (int64_t j = j0; j < j0 + kStep; j += kLanes) {
      Wide total = load(column + j);
      for (int r = 0; r < R; ++r) {
        const Wide v = load(x[r] + j);
        total += share * v;
        if (kMasked) {
          xx[r] += v * load(mask + j) * v;
        } else {
          xx[r] += v * v;
        }
        if (kNoise == Noise::shared) xz[r] += v * load(z + j);
        if (kNoise == Noise::independent) {
          Wide w = load(w_rows[r] + j);
          if (kMasked) w *= load(mask + j);
          xz[r] += v * w;
          zz[r] += w * w;
        }
      }
      store(column + j, total);
    }
  }
  for (int r = 0; r < R; ++r) {
    sums[kXX * n + r] += sum(xx[r]);
    if (kNoise != Noise::none) sums[kXZ * n + r] += sum(xz[r]);
    if (kNoise == Noise::independent) sums[kZZ * n + r] += sum(zz[r]);
  }
}

template <int R, Noise kNoise, typename A>
inline void project_rows(const A* const* x_rows, const A* const* z_rows, int64_t ahead, const double* mean,
                         int64_t width, double* sums, int64_t n) {
  const Rows<R, A> x(x_rows), w_rows(z_rows);
  Wide xm[R] = {}, zm[R] = {};
  for (int64_t j0 = 0; j0 < width; j0 += kStep) {
    for (int r = kPrefetched; r < R; ++r) prefetch(x[r] + ahead + j0);
    for (int64_t j = j0; j < j0 + kStep; j += kLanes) {
      const Wide m = load(mean + j);
      for (int r = 0; r < R; ++r) {
        xm[r] += load(x[r] + j) * m;
        if (kNoise == Noise::independent) zm[r] += load(w_rows[r] + j) * m;
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    sums[kXM * n + r] += sum(xm[r]);
    if (kNoise == Noise::independent) sums[kZM * n + r] += sum(zm[r]);
  }
}

template <Noise kNoise, bool kMasked, typename T, typename A>
void correlate_task(const Matrix<T, A>& m, const Correlations& q, int64_t task) {
  Block<T, A> block(m);
  simd::Buffer<double> column(m.width), z(m.width), mask(m.width);
  double* rows = q.rows + task * kRowSums * m.n;
  double* totals = q.totals + task * kTotalSums;
  std::fill(rows, rows + kRowSums * m.n, 0.0);
  std::fill(totals, totals + kTotalSums, 0.0);
  const double share = 1.0 / static_cast<double>(m.n);  // a multiplication that is free: the adders are the bottleneck
  const int prefetched = q.norms_only ? kGroup : kPrefetched;
  for (int64_t b = m.first_block(task); b < m.first_block(task + 1); ++b) {
    block.open(b);
    const int64_t width = block.width;
    block.shared_noise(z.data());
    std::fill(column.data(), column.data() + width, 0.0);
    if (kMasked) {
      for (int64_t j = 0; j < width; ++j) {
        mask[j] = j < block.count && q.measure[block.first + j] > q.cut ? 1.0 : 0.0;
        z[j] *= mask[j];
      }
    }
    int64_t i = 0;
    for (; i + kGroup <= m.n; i += kGroup) {
      add_rows<kGroup, kNoise, kMasked>(block.rows(i), block.noise(i), block.ahead, prefetched, z.data(), mask.data(),
                                        share, width, column.data(), rows + i, m.n);
    }
    for (; i < m.n; ++i) {
      add_rows<1, kNoise, kMasked>(block.rows(i), block.noise(i), block.ahead, prefetched, z.data(), mask.data(), share,
                                   width, column.data(), rows + i, m.n);
    }
    if (q.norms_only) continue;
    if (kMasked) {
      for (int64_t j = 0; j < width; ++j) column[j] *= mask[j];
    }
    for (i = 0; i + kGroup <= m.n; i += kGroup) {
      project_rows<kGroup, kNoise>(block.rows(i), block.noise(i), block.ahead, column.data(), width, rows + i, m.n);
    }
    for (; i < m.n; ++i) {
      project_rows<1, kNoise>(block.rows(i), block.noise(i), block.ahead, column.data(), width, rows + i, m.n);
    }
    Wide mm = {}, zz = {}, zm = {};
    for (int64_t j = 0; j < width; j += kLanes) {
      const Wide v = load(column.data() + j), w = load(z.data() + j);
      mm += v * v;
      zz += w * w;
      zm += w * v;
    }
    totals[kMM] += sum(mm);
    totals[kTotalZZ] += sum(zz);
    totals[kTotalZM] += sum(zm);
  }
}

template <Noise kNoise, typename T, typename A>
void correlate_as(const Matrix<T, A>& m, const Correlations& q, int64_t task) {
  if (q.measure != nullptr) {
    correlate_task<kNoise, true>(m, q, task);
  } else {
    correlate_task<kNoise, false>(m, q, task);
  }
}

template <typename T, typename A>
void correlate(const Matrix<T, A>& m, const Correlations& q, int64_t first_task, int64_t last_task) {
  for (int64_t task = first_task; task < last_task; ++task) {
    if (m.kind == Noise::none) {
      correlate_as<Noise::none>(m, q, task);
    } else if (m.kind == Noise::shared) {
      correlate_as<Noise::shared>(m, q, task);
    } else {
      correlate_as<Noise::independent>(m, q, task);
    }
  }
}

// ---- Column measures.

// A row as the cosine sees it: clipped, with its own noise if it has one (the shared draw is added by the caller).
template <bool kIndependent, typename A>
inline Wide seen(const A* x, const A* z, double factor, int64_t j) {
  return kIndependent ? factor * load(x + j) + load(z + j) : factor * load(x + j);
}

// Magnitude: first += |value + shared noise|. Otherwise moments about `shift`, the first row's value, so that columns
// that are the same in every row have exactly no variance.
template <int R, bool kMagnitude, bool kIndependent, typename A>
inline void add_moments(const A* const* x_rows, const A* const* z_rows, int64_t ahead, const double* scales,
                        const double* shift, int64_t width, double* first, double* second) {
  const Rows<R, A> x(x_rows), w_rows(z_rows);
  const Factors<R> factors(scales);
  for (int64_t j0 = 0; j0 < width; j0 += kStep) {
    for (int r = 0; r < R; ++r) prefetch(x[r] + ahead + j0);
    for (int64_t j = j0; j < j0 + kStep; j += kLanes) {
      const Wide s = load(shift + j);
      Wide one = load(first + j), two = kMagnitude ? one : load(second + j);
      for (int r = 0; r < R; ++r) {
        const Wide value = seen<kIndependent>(x[r], w_rows[r], factors[r], j);
        if (kMagnitude) {
          one += absolute(value + s);
        } else {
          const Wide d = value - s;
          one += d;
          two += d * d;
        }
      }
      store(first + j, one);
      if (!kMagnitude) store(second + j, two);
    }
  }
}

template <bool kMagnitude, bool kIndependent, typename T, typename A>
void measure_task(const Matrix<T, A>& m, const Moments<A>& q, int64_t task, uint32_t* histogram) {
  Block<T, A> block(m);
  simd::Buffer<double> z(m.width), shift(m.width), first(m.width), second(m.width), factors(m.n);
  for (int64_t i = 0; i < m.n; ++i) factors[i] = static_cast<double>(q.factors[i]);
  const double n = static_cast<double>(m.n);
  for (int64_t b = m.first_block(task); b < m.first_block(task + 1); ++b) {
    block.open(b);
    const int64_t width = block.width;
    block.shared_noise(z.data());
    std::fill(first.data(), first.data() + width, 0.0);
    std::fill(second.data(), second.data() + width, 0.0);
    for (int64_t j = 0; j < width; j += kLanes) {
      store(shift.data() + j, kMagnitude ? load(z.data() + j)
                                         : seen<kIndependent>(block.rows(0)[0], block.noise(0)[0], factors[0], j));
    }
    int64_t i = 0;
    for (; i + kGroup <= m.n; i += kGroup) {
      add_moments<kGroup, kMagnitude, kIndependent>(block.rows(i), block.noise(i), block.ahead, factors.data() + i,
                                                    shift.data(), width, first.data(), second.data());
    }
    for (; i < m.n; ++i) {
      add_moments<1, kMagnitude, kIndependent>(block.rows(i), block.noise(i), block.ahead, factors.data() + i,
                                               shift.data(), width, first.data(), second.data());
    }
    for (int64_t j = 0; j < width; j += kLanes) {
      const Wide total = load(first.data() + j);
      Wide value = total / n;
      if (!kMagnitude) {
        const Wide variance = (load(second.data() + j) - total * value) / n;
        const Wide mean = absolute(load(shift.data() + j) + value + load(z.data() + j));
        value = root(variance > 0 ? variance : Wide{});
        if (q.measure == Measure::variation) value /= mean + kMeanEpsilon;
      }
      store(first.data() + j, value);
    }
    float* out = q.out + block.first;
    for (int64_t j = 0; j < block.count; ++j) out[j] = static_cast<float>(first[j]);
    for (int64_t j = 0; j < block.count; ++j) ++histogram[ordered_bits(out[j]) >> kBinShift];
  }
}

template <typename T, typename A>
void measure_columns(const Matrix<T, A>& m, const Moments<A>& q, int64_t first_task, int64_t last_task) {
  simd::Buffer<uint32_t> histogram(kBins);
  std::fill(histogram.data(), histogram.data() + kBins, 0u);
  const bool magnitude = q.measure == Measure::magnitude, independent = m.kind == Noise::independent;
  for (int64_t task = first_task; task < last_task; ++task) {
    if (magnitude) {
      independent ? measure_task<true, true>(m, q, task, histogram.data())
                  : measure_task<true, false>(m, q, task, histogram.data());
    } else {
      independent ? measure_task<false, true>(m, q, task, histogram.data())
                  : measure_task<false, false>(m, q, task, histogram.data());
    }
  }
  for (int64_t i = 0; i < kBins; ++i) {
    if (histogram[i] != 0) __atomic_fetch_add(&q.histogram[i], static_cast<int64_t>(histogram[i]), __ATOMIC_RELAXED);
  }
}

// ---- The weighted sum of rows, in the order of the rows.

template <int R, bool kIndependent, typename A>
inline void add_weighted(const A* const* x_rows, const A* const* z_rows, int64_t ahead, const double* scales,
                         int64_t width, double* column) {
  const Rows<R, A> x(x_rows), w_rows(z_rows);
  const Factors<R> weights(scales);
  for (int64_t j0 = 0; j0 < width; j0 += kStep) {
    for (int r = 0; r < R; ++r) prefetch(x[r] + ahead + j0);
    for (int64_t j = j0; j < j0 + kStep; j += kLanes) {
      Wide total = load(column + j);
      for (int r = 0; r < R; ++r) {
        total += weights[r] * load(x[r] + j);
        if (kIndependent) total += load(w_rows[r] + j);
      }
      store(column + j, total);
    }
  }
}

template <bool kIndependent, typename T, typename A>
void aggregate_task(const Matrix<T, A>& m, const Aggregate<T, A>& q, int64_t task) {
  Block<T, A> block(m);
  simd::Buffer<double> z(m.width), column(m.width), weights(m.n);
  for (int64_t i = 0; i < m.n; ++i) weights[i] = static_cast<double>(q.weights[i]);
  for (int64_t b = m.first_block(task); b < m.first_block(task + 1); ++b) {
    block.open(b);
    block.shared_noise(z.data());
    std::fill(column.data(), column.data() + block.width, 0.0);
    int64_t i = 0;
    for (; i + kGroup <= m.n; i += kGroup) {
      add_weighted<kGroup, kIndependent>(block.rows(i), block.noise(i), block.ahead, weights.data() + i, block.width,
                                         column.data());
    }
    for (; i < m.n; ++i) {
      add_weighted<1, kIndependent>(block.rows(i), block.noise(i), block.ahead, weights.data() + i, block.width,
                                    column.data());
    }
    T* out = q.out + block.first;
    for (int64_t j = 0; j < block.count; ++j) {
      // Rounded product before the sum, also where the two could be fused.
      const double scaled = q.sum_scale == 1.0 ? column[j] : q.sum_scale * column[j];
      out[j] = static_cast<T>(static_cast<A>((scaled + z[j]) / q.divisor));
    }
  }
}

template <typename T, typename A>
void aggregate(const Matrix<T, A>& m, const Aggregate<T, A>& q, int64_t first_task, int64_t last_task) {
  for (int64_t task = first_task; task < last_task; ++task) {
    m.kind == Noise::independent ? aggregate_task<true>(m, q, task) : aggregate_task<false>(m, q, task);
  }
}

}  // namespace zoo::cosine_filter::ZOO_SIMD_LEVEL
