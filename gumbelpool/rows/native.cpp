// The row functions of reference.py, fused, for float32 and float64 on a CPU.
//
// Gradients are written in the symbols of estimators.py. Pointers come as integers from native.py,
// which has checked dtypes and contiguity; indices are checked here.

#include <nanobind/nanobind.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace nb = nanobind;
using std::int32_t;
using std::int64_t;

// Hot functions are compiled several times, and the loader takes what the processor can run. What
// they call has to be inlined into them to be compiled for the same processor.
#ifdef GUMBELPOOL_CLONES
#define HOT __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define HOT
#endif
#define INLINED __attribute__((always_inline))
#define INLINE INLINED inline
#define SIMD _Pragma("omp simd")
#define UNROLL _Pragma("GCC unroll 16")

namespace {

constexpr double INF = std::numeric_limits<double>::infinity();

// --- exp, log and noise --------------------------------------------------------------------------

template <class T> struct Format;
template <> struct Format<float> {
  using Bits = uint32_t;
  static constexpr int mantissa = 23, bias = 127, exp_terms = 7, log_terms = 5;
  static constexpr float smallest = -87, ln2_high = 0.693145751953125f, ln2_low = 1.42860682e-6f;
};
template <> struct Format<double> {
  using Bits = uint64_t;
  static constexpr int mantissa = 52, bias = 1023, exp_terms = 13, log_terms = 11;
  static constexpr double smallest = -708, ln2_high = 6.93147180369123816490e-01,
                          ln2_low = 1.90821492927058770002e-10;
};

constexpr double FACTORIAL[] = {1,    1,     2,      6,       24,       120,       720,
                                5040, 40320, 362880, 3628800, 39916800, 479001600, 6227020800};

template <class To, class From> INLINE To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

/// e^x for x ≤ 0: zero for −∞ and where it is no normal number, NaN for any NaN.
template <class T> INLINE T exp_(T x) {
  using F = Format<T>;
  using Bits = typename F::Bits;
  constexpr T round = T(3) * T(Bits(1) << (F::mantissa - 1));  // adding it rounds to an integer
  const T shifted = x * T(1.4426950408889634) + round, n = shifted - round;
  const T r = (x - n * F::ln2_high) - n * F::ln2_low;
  T series = 0;
  UNROLL for (int k = F::exp_terms; k >= 0; --k) series = series * r + T(1 / FACTORIAL[k]);
  constexpr Bits one = Bits(F::bias) << F::mantissa;
  const T power = bits<T>(Bits(one + (bits<Bits>(shifted) << F::mantissa)));  // 2^n
  return x < F::smallest ? T(0) : series * power;
}

/// log x for normal numbers x > 0.
template <class T> INLINE T log_(T x) {
  using F = Format<T>;
  using Bits = typename F::Bits;
  // x = 2^n (1 + f) with 1 + f in [√½, √2).
  const Bits root = bits<Bits>(T(0.70710678118654752)), one = Bits(F::bias) << F::mantissa;
  const Bits shifted = (bits<Bits>(x) - root + one) >> F::mantissa;
  const T f = bits<T>(Bits(bits<Bits>(x) - (shifted << F::mantissa) + one)) - 1;
  constexpr T offset = T(Bits(1) << F::mantissa);
  const T n = bits<T>(Bits(bits<Bits>(offset) | shifted)) - (offset + F::bias);
  // log(1 + f) = 2 artanh s = f − s (f − 2 (s²/3 + s⁴/5 + …)), s = f / (2 + f).
  const T s = f / (2 + f), z = s * s;
  T series = 0;
  UNROLL for (int k = F::log_terms; k > 0; --k) series = z * (series + T(2.0 / (2 * k + 1)));
  return n * F::ln2_high + (f - (s * (f - series) - n * F::ln2_low));
}

/// Of exponential_noise: the upper half of SplitMix64, made odd.
INLINE uint32_t odd_word(uint64_t seed, uint64_t stream, int64_t index) {
  uint64_t word = seed + 0xD1B54A32D192ED03u * stream + uint64_t(index) * 0x9E3779B97F4A7C15u;
  word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9u;
  word = (word ^ (word >> 27)) * 0x94D049BB133111EBu;
  return uint32_t((word ^ (word >> 31)) >> 32) | 1;
}

/// Exp(1) noise, of the words of its row and of its column.
template <class T> INLINE T exponential(uint32_t row, uint32_t column) {
  constexpr T scale = T(0x1p-31 * (1 - 0x1p-24));
  return -log_(T(int32_t((row * column) >> 1)) * scale + T(0x1p-32));
}

// --- threads -------------------------------------------------------------------------------------

struct Range {
  int part;
  int64_t begin, end;
};

/// Into how many parts to cut some work, so that each is worth a thread of its own.
int count_parts(int64_t size, int threads, double nanoseconds) {
  const int64_t worth = int64_t(std::min(nanoseconds / 1e5, 1e6));
  return int(std::max<int64_t>(1, std::min({worth, int64_t(threads), size})));
}

/// Calls work(range) for the parts of [0, size), each in a thread: a fork would break a pool of
/// them. An index out of bounds makes it return false.
template <class Work> void run_parts(int64_t size, int parts, Work work) {
  std::atomic<bool> good{true};
  const auto run = [&](int part) {
    if (!work(Range{part, size * part / parts, size * (part + 1) / parts})) good = false;
  };
  std::vector<std::thread> threads;
  threads.reserve(parts);
  for (int part = 1; part < parts; ++part) {
    try {
      threads.emplace_back(run, part);
    } catch (const std::system_error&) {
      run(part);
    }
  }
  run(0);
  for (std::thread& thread : threads) thread.join();
  if (!good) throw nb::index_error("an index is out of bounds");
}

template <class T> std::unique_ptr<T[]> allocate(int64_t size) {
  return std::unique_ptr<T[]>(new T[size]);
}

template <class T> T* pointer(int64_t address) {
  return reinterpret_cast<T*>(address);
}

/// An index tensor, int32 or int64.
struct Index {
  const void* data;
  bool wide;
  Index(int64_t address, bool wide) : data(pointer<void>(address)), wide(wide) {}
  INLINE int64_t operator[](int64_t i) const {
    return wide ? static_cast<const int64_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
  }
};

INLINE bool within(int64_t index, int64_t size) { return uint64_t(index) < uint64_t(size); }

// --- tiles ---------------------------------------------------------------------------------------
//
// Rows are looked at in tiles of LANES entries by some number of steps. In a narrow tile a lane is
// a row and a step a column; a wide tile is one row, cut into pieces of LANES entries. So the loops
// over steps and lanes are the same and have no remainder; `join` makes one value of those that
// the lanes of a wide row have found.

template <class T> constexpr int LANES = 64 / sizeof(T);
constexpr int64_t WIDE = 96;  // columns from which tiles are wide

template <class T> int64_t tile_size(int64_t K) {
  return K < WIDE ? K * LANES<T> : K + LANES<T>;
}

#define EACH(s, i, steps) \
  for (int64_t s = 0; s < (steps) * L; s += L) SIMD for (int64_t i = s; i < s + L; ++i)

/// out[c, r] = in[r, c], for R by C entries.
template <class T>
INLINE void transpose(const T* in, int64_t in_stride, int64_t R, int64_t C, T* out,
                      int64_t out_stride) {
  int64_t r = 0;
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
  typedef T Four __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));
  for (; r + 4 <= R; r += 4) {
    int64_t c = 0;
    for (; c + 4 <= C; c += 4) {
      Four row[4], half[4];
      UNROLL for (int i = 0; i < 4; ++i)
        row[i] = *reinterpret_cast<const Four*>(in + (r + i) * in_stride + c);
      UNROLL for (int i = 0; i < 4; i += 2) {
        half[i] = __builtin_shufflevector(row[i], row[i + 1], 0, 4, 1, 5);
        half[i + 1] = __builtin_shufflevector(row[i], row[i + 1], 2, 6, 3, 7);
      }
      UNROLL for (int i = 0; i < 4; i += 2) {
        Four* column = reinterpret_cast<Four*>(out + (c + i) * out_stride + r);
        *column = __builtin_shufflevector(half[i / 2], half[i / 2 + 2], 0, 1, 4, 5);
        column = reinterpret_cast<Four*>(out + (c + i + 1) * out_stride + r);
        *column = __builtin_shufflevector(half[i / 2], half[i / 2 + 2], 2, 3, 6, 7);
      }
    }
    for (; c < C; ++c)
      for (int i = 0; i < 4; ++i) out[c * out_stride + r + i] = in[(r + i) * in_stride + c];
  }
#endif
#endif
  for (; r < R; ++r)
    for (int64_t c = 0; c < C; ++c) out[c * out_stride + r] = in[r * in_stride + c];
}

/// The rows of a matrix of K columns as tiles.
template <class T, bool Wide> struct Layout {
  static constexpr int L = LANES<T>;
  const int64_t K, steps = Wide ? (K + L - 1) / L : K, size = steps * L;

  explicit INLINE Layout(int64_t K) : K(K) {}

  /// Where column k of the row in a lane is.
  static INLINE int64_t place(int64_t k, int lane) { return Wide ? k : k * L + lane; }

  /// Lanes without a row of their own get the first.
  INLINE void load(const T* rows, int count, T fill, T* tile) const {
    if constexpr (Wide) {
      std::copy(rows, rows + K, tile);
      std::fill(tile + K, tile + size, fill);
    } else {
      transpose(rows, K, count, K, tile, L);
      for (int64_t s = 0; count < L && s < size; s += L)
        std::fill(tile + s + count, tile + s + L, tile[s]);
    }
  }

  INLINE void store(const T* tile, int count, T* rows) const {
    if constexpr (Wide)
      std::copy(tile, tile + K, rows);
    else
      transpose(tile, L, K, count, rows, K);
  }

  /// Makes of the sums of lanes those of rows.
  template <class Sum> static INLINE void join(Sum (&lanes)[L]) {
    if constexpr (Wide) {
      Sum total = 0;
      for (int i = 0; i < L; ++i) total += lanes[i];
      std::fill(lanes, lanes + L, total);
    }
  }

  /// The largest entry of each row, NaN aside.
  INLINE void find_top(const T* tile, T (&top)[L]) const {
    std::fill(top, top + L, T(-INF));
    EACH(s, i, steps) top[i - s] = tile[i] > top[i - s] ? tile[i] : top[i - s];
    if constexpr (Wide) std::fill(top, top + L, *std::max_element(top, top + L));
  }

  /// Calls tile(first row, number of rows).
  template <class Tile> static INLINE void walk(Range range, Tile tile) {
    constexpr int64_t step = Wide ? 1 : L;
    for (int64_t row = range.begin; row < range.end; row += step)
      tile(row, int(std::min(step, range.end - row)));
  }
};

/// Compiles a task's work for several processors. It returns false if an index is out of bounds.
#define HOT_TASK(Task)                                                                            \
  HOT bool run(const Task<float>& t, Range range, float* space) { return t.run(range, space); }   \
  HOT bool run(const Task<double>& t, Range range, double* space) { return t.run(range, space); }

// --- sample_rows ---------------------------------------------------------------------------------

template <class T> struct Draw {
  static constexpr int L = LANES<T>, GROUP = 4 * L;  // entries of a wide row that are summed first
  const T* logits;
  const double* uniform;
  Index batch;
  int64_t K;
  int64_t* cluster;
  double *entropy, *usage;
  double* own;    // [parts, K + 1]: the sums of a graph that an earlier part has begun
  int64_t* begun;  // [parts]: that graph

  static int64_t space(int64_t K) { return 4 * tile_size<T>(K); }

  INLINE bool run(Range range, T* space) const {
    begun[range.part] = -1;
    if (range.part > 0 && batch[range.begin - 1] == batch[range.begin])
      begun[range.part] = batch[range.begin];
    if (K < WIDE)
      draw<false>(range, space);
    else
      draw<true>(range, space);
    return true;
  }

  /// The first group whose cumulative weight exceeds the target, and in it the first entry; or its
  /// last positive weight, where rounding keeps the sum of its entries from reaching the target.
  INLINE int64_t search(const T* w, const double* cumulative, double target) const {
    int64_t group = 0, found = 0;
    while (cumulative[group] <= target) ++group;
    double reached = group == 0 ? 0 : cumulative[group - 1];
    for (int64_t k = group * GROUP; k < std::min(K, (group + 1) * GROUP); ++k) {
      if (w[k] == 0) continue;
      found = k;
      if ((reached += w[k]) > target) break;
    }
    return found;
  }

  template <bool Wide> INLINE void draw(Range range, T* space) const {
    const Layout<T, Wide> tiles(K);
    const int64_t size = tiles.size, steps = tiles.steps;
    T *t = space, *w = t + size;  // θ − max θ, e^t
    double* cumulative = reinterpret_cast<double*>(w + size);
    tiles.walk(range, [&](int64_t row, int count) INLINED {
      T top[L];
      double total[L] = {};
      tiles.load(logits + row * K, count, T(-INF), t);
      tiles.find_top(t, top);
      EACH(s, i, steps) {
        t[i] -= top[i - s];
        w[i] = exp_(t[i]);
      }
      if constexpr (Wide) {
        double reached = 0;
        for (int64_t first = 0; first < size; first += GROUP) {
          double sum = 0;
          const int64_t last = std::min(first + GROUP, size);
          _Pragma("omp simd reduction(+ : sum)") for (int64_t i = first; i < last; ++i) sum += w[i];
          cumulative[first / GROUP] = reached += sum;
        }
        std::fill(total, total + L, reached);
      } else {
        EACH(s, i, steps) total[i - s] += w[i];
      }

      int64_t drawn[L] = {};
      double target[L] = {};
      for (int i = 0; i < count && uniform != nullptr; ++i)
        target[i] = std::min(uniform[row + i], 1 - 0x1p-52) * total[i];
      if constexpr (Wide) {
        if (uniform == nullptr)
          while (drawn[0] + 1 < K && t[drawn[0]] != 0) ++drawn[0];
        else if (total[0] > 0)
          drawn[0] = search(w, cumulative, target[0]);
      } else {
        double reached[L] = {};
        EACH(s, i, steps) {
          reached[i - s] += uniform == nullptr ? T(t[i] == 0) : w[i];
          drawn[i - s] += reached[i - s] <= target[i - s];
        }
      }
      for (int i = 0; i < count; ++i) cluster[row + i] = total[i] > 0 ? drawn[i] : -1;  // or NaN

      if (entropy == nullptr && usage == nullptr) return;
      T expected[L] = {}, scale[L];
      double each[L];  // H(p) = log Σ w − Σ w t / Σ w
      if (entropy != nullptr) {
        EACH(s, i, steps) expected[i - s] += w[i] > 0 ? w[i] * t[i] : T(0);
        tiles.join(expected);
        SIMD for (int i = 0; i < L; ++i) each[i] = log_(total[i]) - expected[i] / total[i];
      }
      SIMD for (int i = 0; i < L; ++i) scale[i] = T(1 / total[i]);
      for (int first = 0, last; first < count; first = last) {  // the rows of one graph
        const int64_t graph = batch[row + first];
        const bool apart = graph == begun[range.part];
        for (last = first + 1; last < count && batch[row + last] == graph;) ++last;
        double* sums = own + range.part * (K + 1);
        if (entropy != nullptr)
          for (int i = first; i < last; ++i) (apart ? sums[K] : entropy[graph]) += each[i];
        if (usage == nullptr) continue;
        if (!apart) sums = usage + graph * K;
        if constexpr (Wide) {
          SIMD for (int64_t k = 0; k < K; ++k) sums[k] += w[k] * scale[0];
        } else {
          for (int64_t k = 0; k < K; ++k) {
            T sum = 0;
            _Pragma("omp simd reduction(+ : sum)") for (int i = 0; i < L; ++i)
              sum += ((i >= first) & (i < last)) ? w[k * L + i] * scale[i] : T(0);
            sums[k] += sum;
          }
        }
      }
    });
  }
};

HOT_TASK(Draw)

template <class T>
void sample_rows(int64_t logits, int64_t uniform, int64_t batch, bool wide, int64_t entropy,
                 int64_t usage, int64_t cluster, int64_t R, int64_t K, int64_t num_graphs,
                 int threads) {
  const int parts = count_parts(R, threads, 1.0 * R * K);
  const bool sums = entropy != 0 || usage != 0;
  std::vector<double> own(parts * (K + 1));
  std::vector<int64_t> begun(parts);
  const Draw<T> task{
      pointer<T>(logits), pointer<double>(uniform), {batch, wide}, K, pointer<int64_t>(cluster),
      pointer<double>(entropy), pointer<double>(usage), own.data(), begun.data()};
  const auto space = allocate<T>(task.space(K) * parts);
  run_parts(R, parts, [&](Range range) {
    if (range.begin == range.end) return true;
    for (int64_t row = range.begin; sums && row < range.end; ++row)
      if (!within(task.batch[row], num_graphs)) return false;
    return run(task, range, space.get() + range.part * task.space(K));
  });
  for (int part = 1; part < parts; ++part) {
    if (begun[part] < 0) continue;
    const double* sum = &own[part * (K + 1)];
    if (entropy != 0) task.entropy[begun[part]] += sum[K];
    for (int64_t k = 0; usage != 0 && k < K; ++k) task.usage[begun[part] * K + k] += sum[k];
  }
}

// --- row_gradient_ -------------------------------------------------------------------------------

enum Estimator { GUMBEL, GUMBEL_RAO, STRAIGHT_THROUGH, GST, REINMAX };  // the order of native.py

template <class T> struct Gradient {
  T* g;
  const T* logits;
  const int64_t* cluster;
  Index batch;
  const T *entropy_slope, *usage_slope;
  int64_t first_row, K;
  int estimator, samples;
  double gap, tau;
  uint64_t seed;
  const uint32_t* columns;  // b of exponential_noise, for each sample as many as a tile may need

  static int64_t space(int64_t K) { return 6 * tile_size<T>(K); }

  INLINE bool run(Range range, T* space) const {
    for (int64_t row = range.begin; row < range.end; ++row)
      if (!within(cluster[row], K)) return false;
    if (K < WIDE)
      differentiate<false>(range, space);
    else
      differentiate<true>(range, space);
    return true;
  }

  template <bool Wide> INLINE void differentiate(Range range, T* space) const;
};

/// The work on one tile of a gradient.
template <class T, bool Wide> struct GradientTile : Layout<T, Wide> {
  using Layout<T, Wide>::L, Layout<T, Wide>::K, Layout<T, Wide>::steps, Layout<T, Wide>::size;
  const Gradient<T>& a;
  const T inverse_tau = T(1 / a.tau);
  T *g, *t, *w, *v, *out, *slope;  // ∂L/∂S, θ − max θ, e^t, unnormalised q, ∂L/∂θ, of statistics
  T inverse_total[L];              // 1 / Σ w, so that p = w · inverse_total
  int64_t row, count, chosen[L];   // the place of the drawn entry c

  INLINE GradientTile(const Gradient<T>& a, T* space)
      : Layout<T, Wide>(a.K), a(a), g(space), t(g + size), w(t + size), v(w + size), out(v + size),
        slope(out + size) {}

  /// The row of a lane, or the first.
  INLINE int64_t row_of(int lane) const { return row + (lane < count ? lane : 0); }

  INLINE void load_rows(int64_t first, int number) {
    row = first, count = number;
    T top[L], total[L] = {};
    for (int i = 0; i < L; ++i) chosen[i] = this->place(a.cluster[row_of(i)], i);
    this->load(a.g + row * K, count, T(0), g);
    this->load(a.logits + row * K, count, T(-INF), t);
    this->find_top(t, top);
    EACH(s, i, steps) {
      t[i] -= top[i - s];
      total[i - s] += w[i] = exp_(t[i]);
      out[i] = 0;
    }
    this->join(total);
    SIMD for (int i = 0; i < L; ++i) inverse_total[i] = 1 / total[i];
  }

  /// ⟨q, with⟩ and 1 / Σ q, of an unnormalised q.
  INLINE void product(const T* q, const T* with, T (&mean)[L], T (&inverse)[L]) const {
    T total[L] = {};
    std::fill(mean, mean + L, T(0));
    EACH(s, i, steps) {
      total[i - s] += q[i];
      mean[i - s] += q[i] * with[i];
    }
    this->join(total);
    this->join(mean);
    SIMD for (int i = 0; i < L; ++i) {
      inverse[i] = 1 / total[i];
      mean[i] *= inverse[i];
    }
  }

  /// out += factor · J(q) with, of an unnormalised q.
  INLINE void add_softmax_vjp(const T* q, const T* with, T factor) const {
    T mean[L], scale[L];
    product(q, with, mean, scale);
    SIMD for (int i = 0; i < L; ++i) scale[i] *= factor;
    EACH(s, i, steps) out[i] += q[i] * scale[i - s] * (with[i] - mean[i - s]);
  }

  INLINE void set_chosen(T* tile, const T (&value)[L]) const {
    for (int i = 0; i < (Wide ? 1 : L); ++i) tile[chosen[i]] = value[i];
  }

  /// v = e^((θ+γ)/τ) but for a factor, with γ Gumbel noise given that its argmax is c.
  INLINE void gumbel(int sample) const {
    const uint32_t* columns = a.columns + sample * (K + L);
    uint32_t word[L], drawn[L];
    T own[L], at_chosen[L];  // own: E_c
    for (int i = 0; i < L; ++i) {
      word[i] = odd_word(a.seed, sample, a.first_row + row_of(i));
      drawn[i] = columns[a.cluster[row_of(i)]];
    }
    SIMD for (int i = 0; i < L; ++i) own[i] = exponential<T>(word[i], drawn[i]);
    if (a.tau == 1) {  // p_j / (E_j + p_j E_c), and 1 / E_c at c
      EACH(s, i, steps) {
        const T E = exponential<T>(word[i - s], columns[Wide ? i : s / L]);
        const T p = w[i] * inverse_total[i - s];
        v[i] = p / (E + p * own[i - s]);
      }
      for (int i = 0; i < L; ++i) at_chosen[i] = 1 / own[i];
      set_chosen(v, at_chosen);
      return;
    }
    // θ_j + γ_j − L = log p_j − log(E_j + p_j E_c), and −log E_c at c. log p_j is not made of p_j,
    // which may be too small a number.
    T log_total[L], top[L];
    SIMD for (int i = 0; i < L; ++i) log_total[i] = -log_(inverse_total[i]);
    EACH(s, i, steps) {
      const T E = exponential<T>(word[i - s], columns[Wide ? i : s / L]);
      const T p = w[i] * inverse_total[i - s];
      v[i] = (t[i] - log_total[i - s]) - log_(E + p * own[i - s]);
    }
    SIMD for (int i = 0; i < L; ++i) at_chosen[i] = -log_(own[i]);
    set_chosen(v, at_chosen);
    this->find_top(v, top);
    EACH(s, i, steps) v[i] = exp_((v[i] - top[i - s]) * inverse_tau);
  }

  /// Adds what the estimator makes of g to out.
  INLINE void estimate() const {
    switch (a.estimator) {
      case GUMBEL:
      case GUMBEL_RAO:
        for (int sample = 0; sample < a.samples; ++sample) {
          gumbel(sample);
          add_softmax_vjp(v, g, inverse_tau / a.samples);
        }
        return;
      case STRAIGHT_THROUGH:
        SIMD for (int64_t i = 0; i < size; ++i) v[i] = exp_(t[i] * inverse_tau);
        return add_softmax_vjp(v, g, inverse_tau);
      case GST: {
        const T gap = T(a.gap);
        SIMD for (int64_t i = 0; i < size; ++i) {
          const T moved = t[i] - (t[i] + gap > 0 ? t[i] + gap : T(0));
          v[i] = exp_(moved * inverse_tau);
        }
        T one[L];
        std::fill(one, one + L, T(1));
        set_chosen(v, one);
        return add_softmax_vjp(v, g, inverse_tau);
      }
      case REINMAX: {  // with q = (softmax(θ/τ) + D) / 2, 2 J(q) g − ½ J(p) g
        SIMD for (int64_t i = 0; i < size; ++i) v[i] = exp_(t[i] * inverse_tau);
        T mean[L], scale[L];
        product(v, g, mean, scale);
        for (int i = 0; i < L; ++i) mean[i] = (mean[i] + g[chosen[i]]) / 2;
        EACH(s, i, steps) out[i] = v[i] * scale[i - s] * (g[i] - mean[i - s]);
        for (int i = 0; i < (Wide ? 1 : L); ++i) out[chosen[i]] += g[chosen[i]] - mean[i];
        return add_softmax_vjp(w, g, T(-0.5));
      }
    }
  }

  /// Adds J(p) (usage_slope − entropy_slope · log p) to out.
  INLINE void add_statistics() const {
    T entropy[L] = {};
    std::fill(slope, slope + size, T(0));
    for (int i = 0; i < (Wide ? 1 : L); ++i) {
      const int64_t graph = a.batch[row_of(i)];
      if (a.entropy_slope != nullptr) entropy[i] = a.entropy_slope[graph];
      if (a.usage_slope != nullptr)
        for (int64_t k = 0; k < K; ++k) slope[this->place(k, i)] = a.usage_slope[graph * K + k];
    }
    if (Wide) std::fill(entropy, entropy + L, entropy[0]);
    // log p is t up to a constant; p log p is zero where p is.
    EACH(s, i, steps) slope[i] -= w[i] > 0 ? entropy[i - s] * t[i] : T(0);
    add_softmax_vjp(w, slope, 1);
  }
};

template <class T>
template <bool Wide>
INLINE void Gradient<T>::differentiate(Range range, T* space) const {
  GradientTile<T, Wide> tile(*this, space);
  tile.walk(range, [&](int64_t row, int count) INLINED {
    tile.load_rows(row, count);
    tile.estimate();
    if (entropy_slope != nullptr || usage_slope != nullptr) tile.add_statistics();
    tile.store(tile.out, count, g + row * K);
  });
}

HOT_TASK(Gradient)

template <class T>
void row_gradient(int64_t g, int64_t logits, int64_t cluster, int64_t first_row, int estimator,
                  int samples, double gap, double tau, int64_t seed, int64_t batch, bool wide,
                  int64_t entropy_slope, int64_t usage_slope, int64_t R, int64_t K,
                  int64_t num_graphs, int threads) {
  const int64_t width = K + LANES<T>;
  const bool noisy = estimator == GUMBEL || estimator == GUMBEL_RAO;
  const auto columns = allocate<uint32_t>(noisy ? samples * width : 0);
  const Gradient<T> task{
      pointer<T>(g), pointer<T>(logits), pointer<int64_t>(cluster), {batch, wide},
      pointer<T>(entropy_slope), pointer<T>(usage_slope), first_row, K, estimator, samples, gap,
      tau, *pointer<uint64_t>(seed), columns.get()};
  for (int sample = 0; noisy && sample < samples; ++sample)
    for (int64_t k = 0; k < width; ++k)
      columns[sample * width + k] = odd_word(task.seed, sample, -1 - k);
  const int parts = count_parts(R, threads, 2.0 * R * K * samples);
  const bool sums = entropy_slope != 0 || usage_slope != 0;
  const auto space = allocate<T>(task.space(K) * parts);
  run_parts(R, parts, [&](Range range) {
    if (range.begin == range.end) return true;
    for (int64_t row = range.begin; sums && row < range.end; ++row)
      if (!within(task.batch[row], num_graphs)) return false;
    return run(task, range, space.get() + range.part * task.space(K));
  });
}

// --- multiply_rows_ ------------------------------------------------------------------------------

#ifdef __x86_64__
constexpr int VECTOR = 32;  // bytes
#else
constexpr int VECTOR = 16;
#endif

template <class T> struct Product {
  static constexpr int W = VECTOR / sizeof(T);
  typedef T Vector __attribute__((vector_size(VECTOR), aligned(sizeof(T)), may_alias));
  T* g;
  const T *x, *matrix, *bias;
  const int64_t *supernode, *batch;
  int64_t K, C, S;

  static int64_t space(int64_t C) { return (C + 1 + 8) * 3 * W; }

  INLINE bool run(Range range, T* panel) const {
    for (int64_t row = range.begin, next; row < range.end; row = next) {
      const int64_t graph = batch[row], *all = supernode + S;
      next = std::upper_bound(batch + row, batch + range.end, graph) - batch;
      int64_t first = std::lower_bound(supernode, all, graph * K) - supernode;
      const int64_t last = std::lower_bound(supernode + first, all, (graph + 1) * K) - supernode;
      if (last - first < K) std::fill(g + row * K, g + next * K, T(0));
      for (; last - first > 2 * W; first = std::min(last, first + 3 * W))
        multiply<4, 3>(row, next, first, std::min(last, first + 3 * W), panel);
      if (last - first > W)
        multiply<6, 2>(row, next, first, last, panel);
      else if (last > first)
        multiply<8, 1>(row, next, first, last, panel);
    }
    return true;
  }

  /// Rows [begin, end) of a graph by its supernodes [first, last), at most N vectors of them.
  template <int R, int N>
  INLINE void multiply(int64_t begin, int64_t end, int64_t first, int64_t last, T* panel) const {
    constexpr int width = N * W;
    const int64_t columns = last - first;
    T* out = panel + (C + 1) * width;
    std::fill(panel, out, T(0));
    if (bias != nullptr) std::copy(bias + first, bias + last, panel);
    transpose(matrix + first * C, C, columns, C, panel + width, width);
    const int64_t k = supernode[first] % K;
    const bool dense = supernode[last - 1] - supernode[first] == columns - 1;
    for (int64_t row = begin; row < end; row += R) {
      const T* rows[R];
      for (int r = 0; r < R; ++r) rows[r] = x + std::min(row + r, end - 1) * C;
      multiply_panel<R, N>(rows, panel, out);
      for (int r = 0; r < R && row + r < end; ++r) {
        T* to = g + (row + r) * K;
        const T* from = out + r * width;
        if (dense)
          std::copy(from, from + columns, to + k);
        else
          for (int64_t j = 0; j < columns; ++j) to[supernode[first + j] % K] = from[j];
      }
    }
  }

  /// out[r] = x[r] · panel, whose first row is the bias, kept in registers.
  template <int R, int N>
  INLINE void multiply_panel(const T* const* x, const T* panel, T* out) const {
    const Vector* columns = reinterpret_cast<const Vector*>(panel);
    Vector sum[R][N];
    UNROLL for (int r = 0; r < R; ++r) UNROLL for (int n = 0; n < N; ++n) sum[r][n] = columns[n];
    for (int64_t c = 0; c < C; ++c) {
      columns += N;
      UNROLL for (int r = 0; r < R; ++r)
        UNROLL for (int n = 0; n < N; ++n) sum[r][n] += x[r][c] * columns[n];
    }
    UNROLL for (int r = 0; r < R; ++r)
      UNROLL for (int n = 0; n < N; ++n) reinterpret_cast<Vector*>(out)[r * N + n] = sum[r][n];
  }
};

HOT_TASK(Product)

template <class T>
void multiply_rows(int64_t g, int64_t x, int64_t matrix, int64_t bias, int64_t supernode,
                   int64_t batch, int64_t R, int64_t K, int64_t C, int64_t S, int threads) {
  const Product<T> task{pointer<T>(g), pointer<T>(x), pointer<T>(matrix), pointer<T>(bias),
                        pointer<int64_t>(supernode), pointer<int64_t>(batch), K, C, S};
  const int parts = count_parts(R, threads, 0.05 * R * K * C);
  const auto space = allocate<T>(task.space(C) * parts);
  run_parts(R, parts, [&](Range range) {
    return run(task, range, space.get() + range.part * task.space(C));
  });
}

// --- add_edges_ ----------------------------------------------------------------------------------

template <class T> struct Edges {
  T* g;
  const int64_t *near, *far;
  const T* value;  // of the edges, or null
  const int64_t* slot;
  const T* table;
  Index pointer, column;  // of a sparse table, or null
  int64_t first_row, R, K, E, N, num_slots, num_rows;

  /// Adds what goes to the range of rows of g; looks at all edges, which come in any order.
  INLINE bool run(Range range, T*) const {
    for (int64_t e = 0; e < E; ++e) {
      const int64_t i = near[e] - first_row;
      if (i < range.begin || i >= range.end) {
        if (!within(i, R)) return false;
        continue;
      }
      if (!within(far[e], N)) return false;
      int64_t row = slot[far[e]];
      if (near[e] == far[e]) row = num_slots + row / K;
      if (!within(row, num_rows)) return false;
      T* __restrict to = g + i * K;
      const T factor = value == nullptr ? T(1) : value[e];
      if (pointer.data == nullptr) {
        const T* __restrict from = table + row * K;
        SIMD for (int64_t k = 0; k < K; ++k) to[k] += factor * from[k];
      } else {
        const int64_t last = pointer[row + 1];
        for (int64_t j = pointer[row]; j < last; ++j) to[column[j]] += factor * table[j];
      }
    }
    return true;
  }
};

HOT_TASK(Edges)

template <class T>
void add_edges(int64_t g, int64_t first_row, int64_t near, int64_t far, int64_t value, int64_t slot,
               int64_t table, int64_t starts, bool wide_starts, int64_t column, bool wide_column,
               int64_t num_slots, int64_t num_rows, int64_t R, int64_t K, int64_t E, int64_t N,
               int threads) {
  const Edges<T> task{pointer<T>(g), pointer<int64_t>(near), pointer<int64_t>(far),
                      pointer<T>(value), pointer<int64_t>(slot), pointer<T>(table),
                      {starts, wide_starts}, {column, wide_column}, first_row, R, K, E, N,
                      num_slots, num_rows};
  run_parts(R, count_parts(R, threads, E * (3.0 + 0.3 * K)),
            [&](Range range) { return run(task, range, nullptr); });
}

// --- sum_rows ------------------------------------------------------------------------------------

template <class T> struct Sum {
  const T* values;
  Index index;
  double* total;
  int64_t M, C, num_rows;

  /// Sums into the range of rows of the total; looks at all values, which come in any order.
  INLINE bool run(Range range, T*) const {
    for (int64_t i = 0; i < M; ++i) {
      const int64_t row = index[i];
      if (row < range.begin || row >= range.end) {
        if (!within(row, num_rows)) return false;
        continue;
      }
      double* __restrict to = total + row * C;
      const T* __restrict from = values + i * C;
      if (C == 1)  // a loop would cost more than what it does
        *to += *from;
      else
        SIMD for (int64_t c = 0; c < C; ++c) to[c] += from[c];
    }
    return true;
  }
};

HOT_TASK(Sum)

template <class T>
void sum_rows(int64_t values, int64_t index, bool wide, int64_t total, int64_t M, int64_t C,
              int64_t num_rows, int threads) {
  const Sum<T> task{pointer<T>(values), {index, wide}, pointer<double>(total), M, C, num_rows};
  run_parts(num_rows, count_parts(num_rows, threads, M * (2.0 + 0.3 * C)),
            [&](Range range) { return run(task, range, nullptr); });
}

// --- check_graphs --------------------------------------------------------------------------------

bool check_graphs(int64_t edge_index, int64_t batch, int64_t num_graphs, int64_t E, int64_t N,
                  int threads) {
  const int64_t *source = pointer<int64_t>(edge_index), *target = source + E;
  const int64_t* graph = pointer<int64_t>(batch);
  bool ascends = N == 0 || (graph[0] >= 0 && graph[N - 1] < num_graphs);
  for (int64_t i = 1; i < N; ++i) ascends &= graph[i - 1] <= graph[i];
  if (!ascends) return false;
  std::atomic<bool> good{true};
  run_parts(E, count_parts(E, threads, 1.5 * E), [&](Range range) {
    bool fits = true;
    for (int64_t e = range.begin; e < range.end && fits; ++e)
      fits = within(source[e], N) && within(target[e], N) && graph[source[e]] == graph[target[e]];
    if (!fits) good = false;
    return true;
  });
  return good;
}

// --- merge_edges, where each key has a bucket ----------------------------------------------------

/// Counts the keys and writes each edge's to position, unless null; returns how many are distinct.
int64_t count_keys(int64_t edge_index, int64_t major, int64_t minor, int64_t num_major,
                   int64_t num_minor, int64_t bucket, int64_t position, int64_t E, int64_t N,
                   int threads) {
  const int64_t num_keys = num_major * num_minor;
  const int64_t *source = pointer<int64_t>(edge_index), *target = source + E;
  const int64_t *first = pointer<int64_t>(major), *second = pointer<int64_t>(minor);
  int32_t *count = pointer<int32_t>(bucket), *key = pointer<int32_t>(position);
  // A thread's own buckets cost about as much as an edge each.
  const int most = int(std::min<int64_t>(threads, 1 + E / std::max<int64_t>(num_keys, 1)));
  const int parts = count_parts(E, most, 5.0 * (E - num_keys));
  std::vector<int32_t> others((parts - 1) * num_keys);
  run_parts(E, parts, [&](Range range) {
    int32_t* own = range.part == 0 ? count : &others[(range.part - 1) * num_keys];
    for (int64_t e = range.begin; e < range.end; ++e) {
      if (!within(source[e], N) || !within(target[e], N)) return false;
      const int64_t each = first[source[e]] * num_minor + second[target[e]];
      if (!within(each, num_keys)) return false;
      if (key != nullptr) key[e] = int32_t(each);
      ++own[each];
    }
    return true;
  });
  int64_t distinct = 0;
  for (int64_t k = 0; k < num_keys; ++k) {
    for (int part = 1; part < parts; ++part) count[k] += others[(part - 1) * num_keys + k];
    distinct += count[k] != 0;
  }
  return distinct;
}

/// Lists the distinct keys, taken apart, and their counts; turns each edge's key, if kept, into its
/// place there.
void list_keys(int64_t bucket, int64_t position, int64_t pairs, int64_t count, int64_t num_minor,
               int64_t distinct, int64_t E, int threads) {
  int32_t *buckets = pointer<int32_t>(bucket), *positions = pointer<int32_t>(position);
  int32_t* counts = pointer<int32_t>(count);
  int64_t *majors = pointer<int64_t>(pairs), *minors = majors + distinct;
  int32_t* own = buckets;
  for (int64_t major = 0, n = 0; n < distinct; ++major, own += num_minor) {
    for (int64_t minor = 0; minor < num_minor && n < distinct; ++minor) {
      const int32_t members = own[minor];  // without a branch on how many these are
      majors[n] = major;
      minors[n] = minor;
      counts[n] = members;
      own[minor] = int32_t(n);
      n += members != 0;
    }
  }
  if (positions == nullptr) return;
  run_parts(E, count_parts(E, threads, 1.5 * E), [&](Range range) {
    for (int64_t e = range.begin; e < range.end; ++e) positions[e] = buckets[positions[e]];
    return true;
  });
}

// --- the module ----------------------------------------------------------------------------------

/// exponential_noise, for tests.
template <class T>
void fill_noise(int64_t seed, int sample, int64_t first_row, int64_t out, int64_t R, int64_t K) {
  for (int64_t r = 0; r < R; ++r)
    for (int64_t k = 0; k < K; ++k)
      pointer<T>(out)[r * K + k] = exponential<T>(odd_word(seed, sample, first_row + r),
                                                  odd_word(seed, sample, -1 - k));
}

template <class T> void define(nb::module_& module, const std::string& dtype) {
  const auto def = [&](const char* name, auto function) {
    module.def((name + dtype).c_str(), function, nb::call_guard<nb::gil_scoped_release>());
  };
  def("sample_rows_", sample_rows<T>);
  def("row_gradient_", row_gradient<T>);
  def("multiply_rows_", multiply_rows<T>);
  def("add_edges_", add_edges<T>);
  def("sum_rows_", sum_rows<T>);
  def("fill_noise_", fill_noise<T>);
}

}  // namespace

NB_MODULE(_native, module) {
  define<float>(module, "float32");
  define<double>(module, "float64");
  module.def("check_graphs", check_graphs, nb::call_guard<nb::gil_scoped_release>());
  module.def("count_keys", count_keys, nb::call_guard<nb::gil_scoped_release>());
  module.def("list_keys", list_keys, nb::call_guard<nb::gil_scoped_release>());
}
