// zoo._C_cuda: importing it registers the CUDA kernels. It is a module of its own because it needs libtorch_cuda, so
// that zoo._C loads under a CPU build of torch too.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_C_cuda, m) {
  m.doc() = "Compiled operators of the zoo (CUDA).";
  m.attr("cuda_version") = ZOO_CUDA_VERSION;
  m.attr("cuda_archs") = ZOO_CUDA_ARCHS;
}
