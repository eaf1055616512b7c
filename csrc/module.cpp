// zoo._C: importing it registers the operators and their CPU kernels; its attributes are facts about the build. Of
// Python it uses the limited API alone, so that one binary serves every version from 3.10 on.
#include "common/module.h"

#include <torch/headeronly/version.h>

#include <string>

#include "common/simd.h"

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#elif defined(_MSC_VER)
  return "msvc " + std::to_string(_MSC_VER);
#else
  return "unknown";
#endif
}

// The instruction set that every translation unit may assume, before any run-time dispatch.
const char* compiled_baseline() {
#if defined(__AVX512F__)
  return "avx512";
#elif defined(__AVX2__)
  return "avx2";
#elif defined(__x86_64__) || defined(_M_X64)
  return "x86-64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "generic";
#endif
}

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "zoo._C", "Compiled operators of the zoo (CPU).", -1,
                          nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() {
  return zoo::module_of_facts(
      definition, {{"compiler", compiler()},
                   {"cxx_standard", std::to_string(__cplusplus)},
                   {"compiled_baseline", compiled_baseline()},
                   {"sources", ZOO_SOURCES},  // digest of the C++ that this was built from
                   {"torch_version", TORCH_VERSION},  // the headers of the build; the binary runs from torch 2.10 on
                   {"simd_level", zoo::simd::level_name(zoo::simd::level())}});
}
