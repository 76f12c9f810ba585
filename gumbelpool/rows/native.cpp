// The row functions of reference.py, fused, for float32 and float64 on a CPU.
//
// Semantics are the reference's; gradients are written in the symbols of estimators.py. Pointers
// come as integers from native.py, which has checked dtypes, shapes and contiguity.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include <nanobind/nanobind.h>

namespace nb = nanobind;
using std::int32_t;
using std::int64_t;

// Hot functions are compiled several times, and the loader takes what the processor can run. What
// they call has to be inlined into them to be compiled for the same processor.
#ifdef GUMBELPOOL_CLONES
#define HOT __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define HOT
#endif
#define INLINED __attribute__((always_inline))
#define INLINE INLINED inline
#define SIMD _Pragma("omp simd")

namespace {

constexpr double INF = std::numeric_limits<double>::infinity();

// --- exp, log and noise --------------------------------------------------------------------------

template <class T> struct Format;
template <> struct Format<float> {
  using Bits = uint32_t;
  static constexpr int mantissa = 23, bias = 127, exp_terms = 7, log_terms = 5;
  static constexpr float smallest = -87.0f, ln2_high = 0.693145751953125f, ln2_low = 1.42860682e-6f;
};
template <> struct Format<double> {
  using Bits = uint64_t;
  static constexpr int mantissa = 52, bias = 1023, exp_terms = 13, log_terms = 11;
  static constexpr double smallest = -708.0, ln2_high = 6.93147180369123816490e-01,
                          ln2_low = 1.90821492927058770002e-10;
};

constexpr double FACTORIAL[] = {1,     1,      2,       6,        24,        120,        720,
                                5040,  40320,  362880,  3628800,  39916800,  479001600,  6227020800};

template <class To, class From> INLINE To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

/// e^x for x ≤ 0: zero for −∞ and what is no normal number, NaN for NaN.
template <class T> INLINE T exp_(T x) {
  using F = Format<T>;
  using Bits = typename F::Bits;
  constexpr T round = T(3) * T(Bits(1) << (F::mantissa - 1));  // adding it rounds to an integer
  const T shifted = x * T(1.4426950408889634) + round, n = shifted - round;
  const T r = (x - n * F::ln2_high) - n * F::ln2_low;
  T series = 0;
#pragma GCC unroll 16
  for (int k = F::exp_terms; k >= 0; --k) series = series * r + T(1 / FACTORIAL[k]);
  const T power = bits<T>(Bits(bits<Bits>(series) + (bits<Bits>(shifted) << F::mantissa)));
  return x < F::smallest ? T(0) : power;
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
#pragma GCC unroll 16
  for (int k = F::log_terms; k > 0; --k) series = z * (series + T(2.0 / (2 * k + 1)));
  return n * F::ln2_high + (f - (s * (f - series) - n * F::ln2_low));
}

/// Of exponential_noise: the upper half of SplitMix64, made odd.
INLINE uint32_t odd_word(uint64_t seed, uint64_t stream, int64_t index) {
  uint64_t word = seed + 0xD1B54A32D192ED03u * stream + uint64_t(index) * 0x9E3779B97F4A7C15u;
  word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9u;
  word = (word ^ (word >> 27)) * 0x94D049BB133111EBu;
  return uint32_t((word ^ (word >> 31)) >> 32) | 1;
}

/// Exp(1) noise of the words of a row and of a column.
template <class T> INLINE T exponential(uint32_t row, uint32_t column) {
  constexpr T scale = T(0x1p-31 * (1 - 0x1p-24));
  return -log_(T(int32_t((row * column) >> 1)) * scale + T(0x1p-32));
}

// --- threads -------------------------------------------------------------------------------------

/// Into how many parts to cut some work, so that each is worth a thread of its own.
int count_parts(int64_t size, int threads, double nanoseconds) {
  const int64_t worth = int64_t(std::min(nanoseconds / 1e5, 1e6));
  return int(std::max<int64_t>(1, std::min({worth, int64_t(threads), size})));
}

/// Calls work(part, begin, end) for the parts of [0, size). A fork would break a pool of threads.
template <class Work> void run_parts(int64_t size, int parts, Work work) {
  std::vector<std::thread> threads;
  threads.reserve(parts);
  for (int part = 1; part < parts; ++part) {
    const int64_t begin = size * part / parts, end = size * (part + 1) / parts;
    try {
      threads.emplace_back(work, part, begin, end);
    } catch (const std::system_error&) {
      work(part, begin, end);
    }
  }
  work(0, 0, size / parts);
  for (std::thread& thread : threads) thread.join();
}

template <class T> std::unique_ptr<T[]> allocate(int64_t size) {
  return std::unique_ptr<T[]>(new T[std::max<int64_t>(size, 1)]);
}

template <class T> T* pointer(int64_t address) { return reinterpret_cast<T*>(address); }

/// An index tensor, int32 or int64.
struct Index {
  const void* data;
  bool wide;
  INLINE int64_t operator[](int64_t i) const {
    return wide ? static_cast<const int64_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
  }
};

void check_bounds(bool good) {
  if (!good) throw nb::index_error("an index is out of bounds");
}

// --- tiles ---------------------------------------------------------------------------------------
//
// Rows are looked at in tiles of LANES entries by some number of steps. In a narrow tile a lane is
// a row and a step a column; a wide tile is one row, cut into pieces of LANES entries. So loops over
// steps and lanes never have a remainder, and differ only in `join`, which makes one value of those
// that the lanes of a row have found.

template <class T> constexpr int LANES = 64 / sizeof(T);
constexpr int64_t WIDE = 96;  // columns from which tiles are wide

template <class T, bool Wide> INLINE int64_t count_steps(int64_t K) {
  return Wide ? (K + LANES<T> - 1) / LANES<T> : K;
}

template <class T> int64_t tile_size(int64_t K) { return (K + LANES<T>)*LANES<T>; }

/// Where column k of the row in a lane is.
template <class T, bool Wide> INLINE int64_t place(int64_t k, int lane) {
  return Wide ? k : k * LANES<T> + lane;
}

template <class T, bool Wide> INLINE void load(const T* const* rows, int64_t K, T fill, T* tile) {
  constexpr int L = LANES<T>;
  if constexpr (Wide) {
    std::memcpy(tile, rows[0], K * sizeof(T));
    std::fill(tile + K, tile + count_steps<T, true>(K) * L, fill);
  } else {
    for (int lane = 0; lane < L; ++lane)
      for (int64_t k = 0; k < K; ++k) tile[k * L + lane] = rows[lane][k];
  }
}

template <class T, bool Wide> INLINE void store(const T* tile, int count, int64_t K, T* rows) {
  constexpr int L = LANES<T>;
  if constexpr (Wide) {
    std::memcpy(rows, tile, K * sizeof(T));
  } else {
    for (int lane = 0; lane < count; ++lane)
      for (int64_t k = 0; k < K; ++k) rows[lane * K + k] = tile[k * L + lane];
  }
}

/// The sum over a row, of the sums in its lanes.
template <bool Wide, class T, int L> INLINE void join(T (&lanes)[L]) {
  if constexpr (Wide) {
    T total = 0;
    for (int lane = 0; lane < L; ++lane) total += lanes[lane];
    std::fill(lanes, lanes + L, total);
  }
}

/// Subtracts the largest logit of each row, NaN aside.
template <class T, bool Wide> INLINE void subtract_top(T* t, int64_t steps) {
  constexpr int L = LANES<T>;
  T top[L];
  std::fill(top, top + L, T(-INF));
  for (int64_t s = 0; s < steps; ++s)
    SIMD for (int i = 0; i < L; ++i) top[i] = t[s * L + i] > top[i] ? t[s * L + i] : top[i];
  if constexpr (Wide) std::fill(top, top + L, *std::max_element(top, top + L));
  for (int64_t s = 0; s < steps; ++s)
    SIMD for (int i = 0; i < L; ++i) t[s * L + i] -= top[i];
}

/// Calls tile(first row, rows, pointers to all lanes' rows): a lane too many has the last row.
template <class T, bool Wide, class Tile>
INLINE void walk(const T* data, int64_t K, int64_t begin, int64_t end, Tile tile) {
  constexpr int L = LANES<T>;
  for (int64_t row = begin; row < end; row += Wide ? 1 : L) {
    const int count = Wide ? 1 : int(std::min<int64_t>(L, end - row));
    const T* rows[L];
    for (int lane = 0; lane < L; ++lane) rows[lane] = data + (row + std::min(lane, count - 1)) * K;
    tile(row, count, rows);
  }
}

// --- sample_rows ---------------------------------------------------------------------------------

/// The sums of the graphs; a graph that an earlier part has begun is summed apart, in `own`.
struct Sums {
  double *entropy, *usage, *own;  // own: usage [K], entropy
  int64_t begun, K;
  INLINE double* usage_of(int64_t graph) const { return graph == begun ? own : usage + graph * K; }
  INLINE double* entropy_of(int64_t graph) const {
    return graph == begun ? own + K : entropy + graph;
  }
};

template <class T> struct Draw {
  const T* logits;
  const double* uniform;
  Index batch;
  int64_t K;
  int64_t* cluster;
};

/// The draw from a wide row: the group in which the cumulative weight exceeds the target, then the
/// entry. Rounding aside the group's entries reach it; where they do not, the last weight is drawn.
template <class T>
INLINE int64_t search(const T* w, const double* cumulative, int group, int64_t K, double target) {
  int64_t g = 0;
  while (cumulative[g] <= target) ++g;
  double reached = g == 0 ? 0 : cumulative[g - 1];
  int64_t found = 0;
  for (int64_t k = g * group; k < std::min(K, (g + 1) * group); ++k) {
    if (w[k] == 0) continue;
    found = k;
    if ((reached += w[k]) > target) break;
  }
  return found;
}

template <class T, bool Wide>
INLINE void draw(const Draw<T>& a, const Sums& sums, int64_t begin, int64_t end, T* space) {
  constexpr int L = LANES<T>, GROUP = 8;  // steps of a group
  const int64_t K = a.K, steps = count_steps<T, Wide>(K);
  T *t = space, *w = t + steps * L;
  double* cumulative = reinterpret_cast<double*>(w + steps * L);
  walk<T, Wide>(a.logits, K, begin, end, [&](int64_t row, int count, const T* const* rows) INLINED {
    load<T, Wide>(rows, K, T(-INF), t);
    subtract_top<T, Wide>(t, steps);
    SIMD for (int64_t i = 0; i < steps * L; ++i) w[i] = exp_(t[i]);

    double total[L] = {};
    if constexpr (Wide) {
      double reached = 0;
      for (int64_t s = 0; s < steps; s += GROUP) {
        double sum = 0;
        const int64_t stop = std::min(s + GROUP, steps) * L;
        _Pragma("omp simd reduction(+ : sum)") for (int64_t i = s * L; i < stop; ++i) sum += w[i];
        cumulative[s / GROUP] = reached += sum;
      }
      std::fill(total, total + L, reached);
    } else {
      for (int64_t s = 0; s < steps; ++s)
        SIMD for (int i = 0; i < L; ++i) total[i] += w[s * L + i];
    }

    int64_t drawn[L] = {};
    if (a.uniform == nullptr) {
      for (int64_t k = K; k-- > 0;)
        for (int i = 0; i < (Wide ? 1 : L); ++i)
          if (t[place<T, Wide>(k, i)] == 0) drawn[i] = k;
    } else {
      double target[L];
      for (int i = 0; i < L; ++i)
        target[i] = std::min(a.uniform[row + std::min(i, count - 1)], 1 - 0x1p-52) * total[i];
      if constexpr (Wide) {
        if (total[0] > 0) drawn[0] = search(w, cumulative, GROUP * L, K, target[0]);
      } else {
        double reached[L] = {};
        for (int64_t s = 0; s < steps; ++s)
          SIMD for (int i = 0; i < L; ++i) {
            reached[i] += w[s * L + i];
            drawn[i] += reached[i] <= target[i];
          }
      }
    }
    for (int i = 0; i < count; ++i) a.cluster[row + i] = total[i] > 0 ? drawn[i] : -1;

    if (sums.entropy != nullptr) {
      T expected[L] = {};  // Σ w t, so that H(p) = log Σ w − Σ w t / Σ w
      for (int64_t s = 0; s < steps; ++s)
        SIMD for (int i = 0; i < L; ++i) {
          const T weight = w[s * L + i];
          expected[i] += weight > 0 ? weight * t[s * L + i] : T(0);
        }
      join<Wide>(expected);
      for (int i = 0; i < count; ++i)
        *sums.entropy_of(a.batch[row + i]) += std::log(total[i]) - expected[i] / total[i];
    }

    if (sums.usage != nullptr) {
      T scale[L];
      for (int i = 0; i < L; ++i) scale[i] = T(1 / total[i]);
      for (int first = 0, last; first < count; first = last) {  // the rows of one graph
        const int64_t graph = a.batch[row + first];
        for (last = first + 1; last < count && a.batch[row + last] == graph;) ++last;
        double* usage = sums.usage_of(graph);
        if constexpr (Wide) {
          SIMD for (int64_t k = 0; k < K; ++k) usage[k] += w[k] * scale[0];
        } else {
          for (int64_t k = 0; k < K; ++k) {
            T sum = 0;
            _Pragma("omp simd reduction(+ : sum)") for (int i = 0; i < L; ++i)
              sum += (i >= first) & (i < last) ? w[k * L + i] * scale[i] : T(0);
            usage[k] += sum;
          }
        }
      }
    }
  });
}

template <class T>
INLINE void draw_either(const Draw<T>& a, const Sums& sums, int64_t begin, int64_t end, T* space) {
  if (a.K < WIDE)
    draw<T, false>(a, sums, begin, end, space);
  else
    draw<T, true>(a, sums, begin, end, space);
}

HOT void draw_rows(const Draw<float>& a, const Sums& s, int64_t begin, int64_t end, float* space) {
  draw_either(a, s, begin, end, space);
}
HOT void draw_rows(const Draw<double>& a, const Sums& s, int64_t begin, int64_t end, double* space) {
  draw_either(a, s, begin, end, space);
}

template <class T>
void sample_rows(int64_t logits, int64_t uniform, int64_t batch, bool wide, int64_t entropy,
                 int64_t usage, int64_t cluster, int64_t R, int64_t K, int64_t num_graphs,
                 int threads) {
  const Draw<T> a{pointer<T>(logits), pointer<double>(uniform), {pointer<void>(batch), wide}, K,
                  pointer<int64_t>(cluster)};
  if (R > 0 && (entropy != 0 || usage != 0))
    check_bounds(a.batch[0] >= 0 && a.batch[R - 1] < num_graphs);
  const int parts = count_parts(R, threads, 1.0 * R * K);
  const int64_t size = 3 * tile_size<T>(K);
  auto space = allocate<T>(size * parts);
  std::vector<double> own(parts * (K + 1));
  std::vector<int64_t> begun(parts, -1);
  run_parts(R, parts, [&](int part, int64_t begin, int64_t end) {
    if (part > 0 && a.batch[begin - 1] == a.batch[begin]) begun[part] = a.batch[begin];
    const Sums sums{pointer<double>(entropy), pointer<double>(usage), &own[part * (K + 1)],
                    begun[part], K};
    draw_rows(a, sums, begin, end, space.get() + size * part);
  });
  for (int part = 1; part < parts; ++part) {
    if (begun[part] < 0) continue;
    const double* sum = &own[part * (K + 1)];
    if (entropy != 0) pointer<double>(entropy)[begun[part]] += sum[K];
    for (int64_t k = 0; usage != 0 && k < K; ++k)
      pointer<double>(usage)[begun[part] * K + k] += sum[k];
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
  double tau, gap;
  uint64_t seed;
  const uint32_t* columns;  // b of exponential_noise, for each sample as many as fill a tile
};

/// The tiles of some rows, all of LANES by steps entries.
template <class T, bool Wide> struct Tile {
  static constexpr int L = LANES<T>;
  const Gradient<T>& a;
  const int64_t K, steps, size;
  T *g, *t, *w, *v, *out, *slope;  // ∂L/∂S; θ − max θ; e^t; unnormalised q; ∂L/∂θ; of statistics
  T inverse_total[L];              // 1 / Σ w, so that p = w · inverse_total
  int64_t chosen[L];               // place of the drawn entry c

  INLINE Tile(const Gradient<T>& a, T* space)
      : a(a), K(a.K), steps(count_steps<T, Wide>(a.K)), size(steps * L), g(space), t(g + size),
        w(t + size), v(w + size), out(v + size), slope(out + size) {}

  INLINE void set_chosen(T* tile, const T (&value)[L]) const {
    for (int i = 0; i < (Wide ? 1 : L); ++i) tile[chosen[i]] = value[i];
  }

  /// ⟨q, g⟩ and 1 / Σ q, of an unnormalised q.
  INLINE void product(const T* q, const T* with, T (&mean)[L], T (&inverse)[L]) const {
    T total[L] = {};
    std::fill(mean, mean + L, T(0));
    for (int64_t s = 0; s < steps; ++s)
      SIMD for (int i = 0; i < L; ++i) {
        total[i] += q[s * L + i];
        mean[i] += q[s * L + i] * with[s * L + i];
      }
    join<Wide>(total);
    join<Wide>(mean);
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
    for (int64_t s = 0; s < steps; ++s)
      SIMD for (int i = 0; i < L; ++i)
        out[s * L + i] += q[s * L + i] * scale[i] * (with[s * L + i] - mean[i]);
  }

  /// v = e^(v/τ − max v/τ).
  INLINE void exponentiate() const {
    const T inverse_tau = T(1 / a.tau);
    subtract_top<T, Wide>(v, steps);
    SIMD for (int64_t i = 0; i < size; ++i) v[i] = exp_(v[i] * inverse_tau);
  }

  /// v = e^((θ+γ)/τ) but for a factor, with γ Gumbel noise given that its argmax is c:
  /// θ_j + γ_j − L = log p_j − log(E_j + p_j E_c), and −log E_c where j = c.
  INLINE void gumbel(int64_t row, int count, int sample) const {
    const uint32_t* columns = a.columns + sample * (K + L);
    uint32_t word[L], drawn[L];
    T noise[L], own[L];
    for (int i = 0; i < L; ++i) {
      const int64_t r = row + std::min(i, count - 1);
      word[i] = odd_word(a.seed, 2 * sample, a.first_row + r);
      drawn[i] = columns[a.cluster[r]];
    }
    SIMD for (int i = 0; i < L; ++i) noise[i] = exponential<T>(word[i], drawn[i]);
    const bool unit = a.tau == 1;  // then v_j = p_j / (E_j + p_j E_c), without a logarithm
    if (unit) {
      for (int64_t s = 0; s < steps; ++s)
        SIMD for (int i = 0; i < L; ++i) {
          const T E = exponential<T>(word[i], columns[Wide ? s * L + i : s]);
          const T p = w[s * L + i] * inverse_total[i];
          v[s * L + i] = p / (E + p * noise[i]);
        }
      for (int i = 0; i < L; ++i) own[i] = 1 / noise[i];
      set_chosen(v, own);
      return;
    }
    T log_total[L];
    for (int i = 0; i < L; ++i) log_total[i] = -std::log(inverse_total[i]);
    for (int64_t s = 0; s < steps; ++s)
      SIMD for (int i = 0; i < L; ++i) {
        const T E = exponential<T>(word[i], columns[Wide ? s * L + i : s]);
        const T p = w[s * L + i] * inverse_total[i];
        v[s * L + i] = (t[s * L + i] - log_total[i]) - log_(E + p * noise[i]);
      }
    for (int i = 0; i < L; ++i) own[i] = -std::log(noise[i]);
    set_chosen(v, own);
    exponentiate();
  }

  /// Adds what the estimator makes of g to out.
  INLINE void estimate(int64_t row, int count) const {
    const T inverse_tau = T(1 / a.tau);
    switch (a.estimator) {
      case GUMBEL:
      case GUMBEL_RAO:
        for (int sample = 0; sample < a.samples; ++sample) {
          gumbel(row, count, sample);
          add_softmax_vjp(v, g, inverse_tau / a.samples);
        }
        return;
      case STRAIGHT_THROUGH:
        SIMD for (int64_t i = 0; i < size; ++i) v[i] = exp_(t[i] * inverse_tau);
        add_softmax_vjp(v, g, inverse_tau);
        return;
      case GST: {
        const T gap = T(a.gap);
        SIMD for (int64_t i = 0; i < size; ++i) {
          const T moved = t[i] - (t[i] + gap > 0 ? t[i] + gap : T(0));
          v[i] = exp_(moved * inverse_tau);
        }
        T one[L];
        std::fill(one, one + L, T(1));
        set_chosen(v, one);
        add_softmax_vjp(v, g, inverse_tau);
        return;
      }
      case REINMAX: {
        // With q = (v / Σ v + D) / 2, out = 2 J(q) g − ½ J(p) g.
        SIMD for (int64_t i = 0; i < size; ++i) v[i] = exp_(t[i] * inverse_tau);
        T mean[L], scale[L], own[L];
        product(v, g, mean, scale);
        for (int i = 0; i < L; ++i) {
          const T drawn = g[chosen[Wide ? 0 : i]];
          mean[i] = (mean[i] + drawn) / 2;
          own[i] = drawn - mean[i];
        }
        for (int64_t s = 0; s < steps; ++s)
          SIMD for (int i = 0; i < L; ++i)
            out[s * L + i] = v[s * L + i] * scale[i] * (g[s * L + i] - mean[i]);
        for (int i = 0; i < (Wide ? 1 : L); ++i) out[chosen[i]] += own[i];
        add_softmax_vjp(w, g, T(-0.5));
        return;
      }
    }
  }

  /// Adds J(p) (usage_slope − entropy_slope · log p) to out.
  INLINE void add_statistics(int64_t row, int count) const {
    T entropy[L] = {};
    const T* rows[L];
    for (int i = 0; i < L; ++i) {
      const int64_t graph = a.batch[row + std::min(i, count - 1)];
      if (a.entropy_slope != nullptr) entropy[i] = a.entropy_slope[graph];
      if (a.usage_slope != nullptr) rows[i] = a.usage_slope + graph * K;
    }
    if (a.usage_slope != nullptr)
      load<T, Wide>(rows, K, T(0), slope);
    else
      std::fill(slope, slope + size, T(0));
    if (a.entropy_slope != nullptr)  // log p is t up to a constant; p log p is zero where p is
      for (int64_t s = 0; s < steps; ++s)
        SIMD for (int i = 0; i < L; ++i)
          slope[s * L + i] -= w[s * L + i] > 0 ? entropy[i] * t[s * L + i] : T(0);
    add_softmax_vjp(w, slope, 1);
  }
};

template <class T, bool Wide>
INLINE void differentiate(const Gradient<T>& a, int64_t begin, int64_t end, T* space) {
  constexpr int L = LANES<T>;
  Tile<T, Wide> tile(a, space);
  walk<T, Wide>(a.logits, a.K, begin, end, [&](int64_t row, int count, const T* const* rows) INLINED {
    const T* gradients[L];
    for (int i = 0; i < L; ++i) {
      const int64_t r = row + std::min(i, count - 1);
      gradients[i] = a.g + r * a.K;
      tile.chosen[i] = place<T, Wide>(a.cluster[r], i);
    }
    load<T, Wide>(gradients, a.K, T(0), tile.g);
    load<T, Wide>(rows, a.K, T(-INF), tile.t);
    subtract_top<T, Wide>(tile.t, tile.steps);
    T total[L] = {};
    for (int64_t s = 0; s < tile.steps; ++s)
      SIMD for (int i = 0; i < L; ++i) {
        tile.out[s * L + i] = 0;
        total[i] += tile.w[s * L + i] = exp_(tile.t[s * L + i]);
      }
    join<Wide>(total);
    SIMD for (int i = 0; i < L; ++i) tile.inverse_total[i] = 1 / total[i];
    tile.estimate(row, count);
    if (a.entropy_slope != nullptr || a.usage_slope != nullptr) tile.add_statistics(row, count);
    store<T, Wide>(tile.out, count, a.K, a.g + row * a.K);
  });
}

template <class T>
INLINE void differentiate_either(const Gradient<T>& a, int64_t begin, int64_t end, T* space) {
  if (a.K < WIDE)
    differentiate<T, false>(a, begin, end, space);
  else
    differentiate<T, true>(a, begin, end, space);
}

HOT void differentiate_rows(const Gradient<float>& a, int64_t begin, int64_t end, float* space) {
  differentiate_either(a, begin, end, space);
}
HOT void differentiate_rows(const Gradient<double>& a, int64_t begin, int64_t end, double* space) {
  differentiate_either(a, begin, end, space);
}

template <class T>
void row_gradient(int64_t g, int64_t logits, int64_t cluster, int64_t first_row, int estimator,
                  int samples, double gap, double tau, int64_t seed, int64_t batch, bool wide,
                  int64_t entropy_slope, int64_t usage_slope, int64_t R, int64_t K,
                  int64_t num_graphs, int threads) {
  Gradient<T> a{pointer<T>(g), pointer<T>(logits), pointer<int64_t>(cluster),
                {pointer<void>(batch), wide}, pointer<T>(entropy_slope), pointer<T>(usage_slope),
                first_row, K, estimator, samples, tau, gap, 0, nullptr};
  if (R > 0 && (entropy_slope != 0 || usage_slope != 0))
    check_bounds(a.batch[0] >= 0 && a.batch[R - 1] < num_graphs);
  check_bounds(std::all_of(a.cluster, a.cluster + R, [K](int64_t c) { return 0 <= c && c < K; }));
  std::unique_ptr<uint32_t[]> columns;
  if (estimator == GUMBEL || estimator == GUMBEL_RAO) {
    a.seed = *pointer<uint64_t>(seed);
    const int64_t width = K + LANES<T>;
    columns = allocate<uint32_t>(samples * width);
    for (int sample = 0; sample < samples; ++sample)
      for (int64_t k = 0; k < width; ++k)
        columns[sample * width + k] = odd_word(a.seed, 2 * sample + 1, k);
    a.columns = columns.get();
  }
  const int parts = count_parts(R, threads, 2.0 * R * K * samples);
  const int64_t size = 6 * tile_size<T>(K);
  auto space = allocate<T>(size * parts);
  run_parts(R, parts, [&](int part, int64_t begin, int64_t end) {
    differentiate_rows(a, begin, end, space.get() + size * part);
  });
}

// --- multiply_rows_ ------------------------------------------------------------------------------

#ifdef __x86_64__
constexpr int VECTOR = 32;  // bytes
#else
constexpr int VECTOR = 16;
#endif
template <class T> constexpr int WIDTH = VECTOR / sizeof(T);

template <class T> struct Product {
  T* g;
  const T *x, *matrix, *bias;
  const int64_t *supernode, *batch;
  int64_t K, C, S;
};

/// out[r] = x[r] · panel + bias, for R rows and N vectors of columns, kept in registers.
template <class T, int R, int N>
INLINE void multiply_panel(const T* const* x, const T* panel, int64_t C, T* out) {
  typedef T Vector __attribute__((vector_size(VECTOR), aligned(sizeof(T)), may_alias));
  const Vector* columns = reinterpret_cast<const Vector*>(panel);
  Vector sum[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sum[r][n] = columns[n];
  for (int64_t c = 0; c < C; ++c) {
    columns += N;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sum[r][n] += x[r][c] * columns[n];
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) reinterpret_cast<Vector*>(out)[r * N + n] = sum[r][n];
}

/// Rows [begin, end), all of a graph whose supernodes are [first, last), by N vectors of columns.
template <class T, int R, int N>
INLINE void multiply_columns(const Product<T>& a, int64_t begin, int64_t end, int64_t first,
                             int64_t last, T* panel) {
  constexpr int width = N * WIDTH<T>;
  const int64_t columns = last - first, C = a.C;
  T* out = panel + (C + 1) * width;
  std::fill(panel, out, T(0));
  for (int64_t j = 0; j < columns; ++j) {
    if (a.bias != nullptr) panel[j] = a.bias[first + j];
    const T* from = a.matrix + (first + j) * C;
    for (int64_t c = 0; c < C; ++c) panel[(c + 1) * width + j] = from[c];
  }
  const int64_t k = a.supernode[first] % a.K;
  const bool whole = a.supernode[last - 1] - a.supernode[first] == columns - 1;
  for (int64_t row = begin; row < end; row += R) {
    const T* x[R];
    for (int r = 0; r < R; ++r) x[r] = a.x + std::min(row + r, end - 1) * C;
    multiply_panel<T, R, N>(x, panel, C, out);
    for (int r = 0; r < R && row + r < end; ++r) {
      T* g = a.g + (row + r) * a.K;
      const T* from = out + r * width;
      if (whole)
        std::copy(from, from + columns, g + k);
      else
        for (int64_t j = 0; j < columns; ++j) g[a.supernode[first + j] % a.K] = from[j];
    }
  }
}

template <class T> int64_t panel_size(int64_t C) { return (C + 1 + 8) * 3 * WIDTH<T>; }

template <class T> INLINE void multiply(const Product<T>& a, int64_t begin, int64_t end, T* panel) {
  constexpr int W = WIDTH<T>;
  for (int64_t row = begin, next; row < end; row = next) {
    const int64_t graph = a.batch[row], *all = a.supernode + a.S;
    next = std::upper_bound(a.batch + row, a.batch + end, graph) - a.batch;
    int64_t first = std::lower_bound(a.supernode, all, graph * a.K) - a.supernode;
    const int64_t last = std::lower_bound(a.supernode + first, all, (graph + 1) * a.K) - a.supernode;
    if (last - first < a.K) std::fill(a.g + row * a.K, a.g + next * a.K, T(0));
    for (; last - first > 2 * W; first = std::min(last, first + 3 * W))
      multiply_columns<T, 4, 3>(a, row, next, first, std::min(last, first + 3 * W), panel);
    if (last - first > W)
      multiply_columns<T, 6, 2>(a, row, next, first, last, panel);
    else if (last > first)
      multiply_columns<T, 8, 1>(a, row, next, first, last, panel);
  }
}

HOT void multiply_rows(const Product<float>& a, int64_t begin, int64_t end, float* panel) {
  multiply(a, begin, end, panel);
}
HOT void multiply_rows(const Product<double>& a, int64_t begin, int64_t end, double* panel) {
  multiply(a, begin, end, panel);
}

template <class T>
void multiply_rows(int64_t g, int64_t x, int64_t matrix, int64_t bias, int64_t supernode,
                   int64_t batch, int64_t R, int64_t K, int64_t C, int64_t S, int threads) {
  const Product<T> a{pointer<T>(g), pointer<T>(x), pointer<T>(matrix), pointer<T>(bias),
                     pointer<int64_t>(supernode), pointer<int64_t>(batch), K, C, S};
  const int parts = count_parts(R, threads, 0.05 * R * K * C);
  auto space = allocate<T>(panel_size<T>(C) * parts);
  run_parts(R, parts, [&](int part, int64_t begin, int64_t end) {
    multiply_rows(a, begin, end, space.get() + panel_size<T>(C) * part);
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
  int64_t first_row, K, E, N, num_slots, num_rows;
};

/// Adds what goes to rows [begin, end) of g; false if an index is out of bounds.
template <class T> INLINE bool add(const Edges<T>& a, int64_t begin, int64_t end) {
  const int64_t K = a.K;
  for (int64_t e = 0; e < a.E; ++e) {
    const int64_t i = a.near[e] - a.first_row, far = a.far[e];
    if (i < begin || i >= end) continue;
    if (far < 0 || far >= a.N) return false;
    int64_t row = a.slot[far];
    if (a.near[e] == far) row = a.num_slots + row / K;
    if (row < 0 || row >= a.num_rows) return false;
    T* __restrict g = a.g + i * K;
    const T value = a.value == nullptr ? T(1) : a.value[e];
    if (a.pointer.data == nullptr) {
      const T* __restrict from = a.table + row * K;
      SIMD for (int64_t k = 0; k < K; ++k) g[k] += value * from[k];
    } else {
      const int64_t last = a.pointer[row + 1];
      for (int64_t j = a.pointer[row]; j < last; ++j) g[a.column[j]] += value * a.table[j];
    }
  }
  return true;
}

HOT bool add_edge_rows(const Edges<float>& a, int64_t begin, int64_t end) {
  return add(a, begin, end);
}
HOT bool add_edge_rows(const Edges<double>& a, int64_t begin, int64_t end) {
  return add(a, begin, end);
}

template <class T>
void add_edges(int64_t g, int64_t first_row, int64_t near, int64_t far, int64_t value, int64_t slot,
               int64_t table, int64_t starts, bool wide_starts, int64_t column, bool wide_column,
               int64_t num_slots, int64_t num_rows, int64_t R, int64_t K, int64_t E, int64_t N,
               int threads) {
  const Edges<T> a{pointer<T>(g), pointer<int64_t>(near), pointer<int64_t>(far), pointer<T>(value),
                   pointer<int64_t>(slot), pointer<T>(table), {pointer<void>(starts), wide_starts},
                   {pointer<void>(column), wide_column}, first_row, K, E, N, num_slots, num_rows};
  std::atomic<bool> good{true};
  run_parts(R, count_parts(R, threads, E * (3.0 + 0.3 * K)), [&](int, int64_t begin, int64_t end) {
    if (!add_edge_rows(a, begin, end)) good = false;
  });
  check_bounds(good);
}

// --- sum_rows ------------------------------------------------------------------------------------

template <class T> struct Summands {
  const T* values;
  Index index;
  double* total;
  int64_t M, C, num_rows;
};

/// Sums into the rows [begin, end) of the total; false if an index is out of bounds.
template <class T> INLINE bool sum(const Summands<T>& a, int64_t begin, int64_t end) {
  for (int64_t i = 0; i < a.M; ++i) {
    const int64_t row = a.index[i];
    if (row < 0 || row >= a.num_rows) return false;
    if (row < begin || row >= end) continue;
    double* __restrict total = a.total + row * a.C;
    const T* __restrict values = a.values + i * a.C;
    SIMD for (int64_t c = 0; c < a.C; ++c) total[c] += values[c];
  }
  return true;
}

HOT bool sum_into(const Summands<float>& a, int64_t begin, int64_t end) {
  return sum(a, begin, end);
}
HOT bool sum_into(const Summands<double>& a, int64_t begin, int64_t end) {
  return sum(a, begin, end);
}

template <class T>
void sum_rows(int64_t values, int64_t index, bool wide, int64_t total, int64_t M, int64_t C,
              int64_t num_rows, int threads) {
  const Summands<T> a{pointer<T>(values), {pointer<void>(index), wide}, pointer<double>(total),
                      M, C, num_rows};
  std::atomic<bool> good{true};
  const int parts = count_parts(num_rows, threads, M * (2.0 + 0.3 * C));
  run_parts(num_rows, parts, [&](int, int64_t begin, int64_t end) {
    if (!sum_into(a, begin, end)) good = false;
  });
  check_bounds(good);
}

// --- merge_edges, where each key has a bucket ----------------------------------------------------

/// Writes each edge's key to position and counts the keys; returns how many are distinct.
int64_t count_keys(int64_t edge_index, int64_t major, int64_t minor, int64_t num_major,
                   int64_t num_minor, int64_t bucket, int64_t position, int64_t E, int64_t N,
                   int threads) {
  const int64_t num_keys = num_major * num_minor;
  const int64_t *source = pointer<int64_t>(edge_index), *target = source + E;
  const int64_t *first = pointer<int64_t>(major), *second = pointer<int64_t>(minor);
  int32_t *count = pointer<int32_t>(bucket), *key = pointer<int32_t>(position);
  std::atomic<bool> good{true};
  // The buckets of another part cost about as much as an edge each.
  const int parts = count_parts(E, threads, 5.0 * (E - num_keys));
  std::vector<int32_t> others((parts - 1) * num_keys);
  run_parts(E, parts, [&](int part, int64_t begin, int64_t end) {
    int32_t* own = part == 0 ? count : &others[(part - 1) * num_keys];
    const auto limit = uint64_t(N);
    for (int64_t e = begin; e < end; ++e) {
      if (uint64_t(source[e]) >= limit || uint64_t(target[e]) >= limit) return void(good = false);
      const int64_t of_edge = first[source[e]] * num_minor + second[target[e]];
      if (uint64_t(of_edge) >= uint64_t(num_keys)) return void(good = false);
      if (key) key[e] = int32_t(of_edge);
      ++own[of_edge];
    }
  });
  check_bounds(good);
  int64_t distinct = 0;
  for (int64_t k = 0; k < num_keys; ++k) {
    for (int part = 1; part < parts; ++part) count[k] += others[(part - 1) * num_keys + k];
    distinct += count[k] != 0;
  }
  return distinct;
}

/// Lists the distinct keys and their counts; turns each edge's key, if kept, into its place there.
void list_keys(int64_t bucket, int64_t position, int64_t key, int64_t count, int64_t distinct,
               int64_t E, int threads) {
  int32_t *buckets = pointer<int32_t>(bucket), *positions = pointer<int32_t>(position);
  int32_t *keys = pointer<int32_t>(key), *counts = pointer<int32_t>(count);
  for (int64_t k = 0, n = 0; n < distinct; ++k) {  // without a branch on how full a bucket is
    const int32_t members = buckets[k];
    keys[n] = int32_t(k);
    counts[n] = members;
    buckets[k] = int32_t(n);
    n += members != 0;
  }
  if (!positions) return;
  run_parts(E, count_parts(E, threads, 1.5 * E), [&](int, int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; ++e) positions[e] = buckets[positions[e]];
  });
}

/// Of exponential_noise, for tests: rows [first_row, first_row + R) by K columns.
template <class T>
void fill_noise(int64_t seed, int sample, int64_t first_row, int64_t out, int64_t R, int64_t K) {
  for (int64_t r = 0; r < R; ++r)
    for (int64_t k = 0; k < K; ++k)
      pointer<T>(out)[r * K + k] =
          exponential<T>(odd_word(seed, 2 * sample, first_row + r), odd_word(seed, 2 * sample + 1, k));
}

template <class T> void define(nb::module_& module, const char* dtype) {
  const auto def = [&](const char* name, auto function) {
    module.def((std::string(name) + "_" + dtype).c_str(), function,
               nb::call_guard<nb::gil_scoped_release>());
  };
  def("sample_rows", sample_rows<T>);
  def("row_gradient", row_gradient<T>);
  def("multiply_rows", static_cast<void (*)(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                                            int64_t, int64_t, int64_t, int64_t, int)>(
                           multiply_rows<T>));
  def("add_edges", add_edges<T>);
  def("sum_rows", sum_rows<T>);
  def("fill_noise", fill_noise<T>);
}

}  // namespace

NB_MODULE(_native, module) {
  define<float>(module, "float32");
  define<double>(module, "float64");
  module.def("count_keys", count_keys, nb::call_guard<nb::gil_scoped_release>());
  module.def("list_keys", list_keys, nb::call_guard<nb::gil_scoped_release>());
}
