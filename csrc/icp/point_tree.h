// zoo._C.PointTree: a tree that outlives a call, to be asked again and again.
#pragma once

#include <pybind11/pybind11.h>

namespace zoo::icp {

void bind_point_tree(pybind11::module_& m);

}  // namespace zoo::icp
