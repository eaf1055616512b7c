// zoo._C_cuda: importing it registers the CUDA kernels. It is a module of its own because it needs libtorch_cuda, so
// that zoo._C loads under a CPU build of torch too.
#include "common/module.h"

namespace {

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "zoo._C_cuda", "Compiled operators of the zoo (CUDA).", -1,
                          nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C_cuda() {
  return zoo::module_of_facts(definition, {{"cuda_version", ZOO_CUDA_VERSION}, {"cuda_archs", ZOO_CUDA_ARCHS}});
}
