// zoo._C: importing it registers the operators and their CPU kernels; its attributes are facts about the
// build and the objects that live on the host.
#include <pybind11/pybind11.h>
#include <torch/headeronly/version.h>

#include <string>

#include "common/simd.h"
#include "icp/point_tree.h"

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

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled operators of the zoo (CPU).";
  m.attr("compiler") = compiler();
  m.attr("cxx_standard") = static_cast<long>(__cplusplus);
  m.attr("compiled_baseline") = compiled_baseline();
  m.attr("sources") = ZOO_SOURCES;  // digest of the C++ that this was built from
  m.attr("torch_version") = TORCH_VERSION;  // the headers of the build; the binary runs from torch 2.10 on
  zoo::icp::bind_point_tree(m);
  m.attr("simd_level") = zoo::simd::level_name(zoo::simd::level());
}
