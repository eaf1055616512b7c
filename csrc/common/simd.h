// Which instruction set the kernels use, decided once at run time.
//
// A kernel is written once, in <operator>/kernel.inl, and compiled for each level by common/for_each_simd_level.h.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define ZOO_SIMD_X86 1
#else
#define ZOO_SIMD_X86 0
#endif

namespace zoo::simd {

enum class Level { baseline, avx2, avx512 };

inline const char* level_name(Level level) {
  return level == Level::avx512 ? "avx512" : level == Level::avx2 ? "avx2" : "baseline";
}

inline Level detect() {
#if ZOO_SIMD_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  Level best = avx2 && avx512 ? Level::avx512 : avx2 ? Level::avx2 : Level::baseline;
  // ZOO_SIMD lowers the level (to test the others, or to compare); it can't raise it beyond the processor.
  if (const char* wanted = std::getenv("ZOO_SIMD")) {
    if (std::strcmp(wanted, "baseline") == 0) best = Level::baseline;
    if (std::strcmp(wanted, "avx2") == 0 && best == Level::avx512) best = Level::avx2;
  }
  return best;
#else
  return Level::baseline;
#endif
}

inline Level level() {
  static const Level chosen = detect();
  return chosen;
}

// Whether bfloat16 is multiplied by the processor's own products (AVX-512 BF16); ZOO_SIMD=avx512 does without them.
inline bool bf16_products() {
#if ZOO_SIMD_X86
  static const bool there = level() == Level::avx512 && __builtin_cpu_supports("avx512bf16") &&
                            (std::getenv("ZOO_SIMD") == nullptr || std::strcmp(std::getenv("ZOO_SIMD"), "avx512") != 0);
  return there;
#else
  return false;
#endif
}

// Scratch memory aligned for the widest vectors. Not zeroed.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(::operator new(static_cast<size_t>(count > 0 ? count : 1) * sizeof(T), kAlignment))) {}
  ~Buffer() { ::operator delete(data_, kAlignment); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  T* data_;
};

}  // namespace zoo::simd

// Calls namespace_::<level>::function(...) of the level in use, e.g. ZOO_SIMD_CALL(scan, problem, begin, end). To be
// used inside the namespace that holds the levels.
#if ZOO_SIMD_X86
#define ZOO_SIMD_CALL(function, ...)                      \
  (::zoo::simd::level() == ::zoo::simd::Level::avx512     \
       ? avx512::function(__VA_ARGS__)                    \
       : ::zoo::simd::level() == ::zoo::simd::Level::avx2 \
             ? avx2::function(__VA_ARGS__)                \
             : baseline::function(__VA_ARGS__))
#else
#define ZOO_SIMD_CALL(function, ...) baseline::function(__VA_ARGS__)
#endif
