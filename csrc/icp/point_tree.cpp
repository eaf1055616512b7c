// zoo._C.PointTree, on NumPy arrays: the stable ABI has no Python tensors.
#include "icp/point_tree.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <variant>

#include "icp/core.h"
#include "nearest_neighbors/check.h"

namespace py = pybind11;

namespace zoo::icp {
namespace {

template <typename A>
using Points = py::array_t<A, py::array::c_style>;

void demand(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);  // ValueError
}

template <typename A>
Points<A> cloud(const py::array& points, const std::string& name, int64_t coordinates) {
  demand(points.ndim() == 2 && points.shape(1) == coordinates,
         name + " must be [n " + std::to_string(coordinates) + "]");
  demand(points.dtype().is(py::dtype::of<A>()),
         name + " must be " + std::string(sizeof(A) == 4 ? "float32" : "float64") + ", as the tree");
  Points<A> contiguous = Points<A>::ensure(points);
  demand(nearest_neighbors::usable(contiguous.data(), contiguous.size()),
         name + " must be finite (and small enough to be squared)");
  return contiguous;
}

class PointTree {
 public:
  explicit PointTree(const py::array& points) {
    demand(points.ndim() == 2 && (points.shape(1) == 2 || points.shape(1) == 3), "points must be [n 2] or [n 3]");
    demand(points.shape(0) > 0, "points must have at least one point");
    demand(points.shape(0) <= nearest_neighbors::kMostPoints, "points must have fewer than 2^31 points");
    const bool single = points.dtype().is(py::dtype::of<float>());
    demand(single || points.dtype().is(py::dtype::of<double>()), "points must be float32 or float64");
    if (points.shape(1) == 2) {
      single ? build<float, 2>(points) : build<double, 2>(points);
    } else {
      single ? build<float, 3>(points) : build<double, 3>(points);
    }
  }

  int64_t size() const {
    return std::visit([](const auto& tree) { return tree.size; }, tree_);
  }

  py::tuple query(const py::array& points, int64_t k, double max_distance) const {
    demand(k >= 1 && k <= size(),
           "k must be from 1 to the number of points (" + std::to_string(size()) + "), not " + std::to_string(k));
    demand(max_distance > 0, "max_distance must be positive");
    return std::visit([&](const auto& tree) { return query_tree(tree, points, k, max_distance); }, tree_);
  }

  py::tuple icp(const py::array& source, const std::optional<py::array>& normals, const Points<double>& r,
                const Points<double>& t, double max_distance, int64_t max_iterations, double tolerance,
                double trim) const {
    const Options options{max_distance, max_iterations, tolerance, trim};
    demand(max_distance > 0, "max_distance must be positive");
    demand(max_iterations >= 0, "max_iterations must be at least 0");
    demand(tolerance >= 0, "tolerance must be at least 0");
    demand(trim >= 0 && trim < 1, "trim must be from 0 to less than 1");
    return std::visit([&](const auto& tree) { return register_tree(tree, source, normals, r, t, options); }, tree_);
  }

 private:
  template <typename A, int D>
  void build(const py::array& points) {
    const Points<A> from = cloud<A>(points, "points", D);
    py::gil_scoped_release release;
    tree_ = nearest_neighbors::build<A, D>(from.data(), from.shape(0));
  }

  template <typename A, int D>
  static py::tuple query_tree(const nearest_neighbors::Tree<A, D>& tree, const py::array& points, int64_t k,
                              double max_distance) {
    const Points<A> from = cloud<A>(points, "query", D);
    const int64_t n = from.shape(0);
    Points<A> distance({n, k});
    py::array_t<int64_t> index({n, k});
    A* distances = distance.mutable_data();
    int64_t* indices = index.mutable_data();
    {
      py::gil_scoped_release release;
      const A reach = static_cast<A>(max_distance);
      nearest_neighbors::query<A, D>(tree, from.data(), n, k, reach * reach, distances, indices);
    }
    return py::make_tuple(distance, index);
  }

  template <typename A, int D>
  static py::tuple register_tree(const nearest_neighbors::Tree<A, D>& tree, const py::array& source,
                                 const std::optional<py::array>& normals, const Points<double>& r,
                                 const Points<double>& t, const Options& options) {
    const Points<A> from = cloud<A>(source, "source", D);
    demand(from.shape(0) > 0, "source must have at least one point");
    demand(from.shape(0) <= nearest_neighbors::kMostPoints, "source must have fewer than 2^31 points");
    std::optional<Points<A>> planes;
    if (normals) {
      planes = cloud<A>(*normals, "target_normals", D);
      demand(planes->shape(0) == tree.size, "target_normals must have one normal per target point");
    }
    demand(r.ndim() == 2 && r.shape(0) == D && r.shape(1) == D && t.ndim() == 1 && t.shape(0) == D,
           "init must be a rotation and a translation of the tree's number of coordinates");
    Result<D> result;
    std::copy_n(r.data(), D * D, &result.motion.r[0][0]);
    std::copy_n(t.data(), D, result.motion.t);
    {
      py::gil_scoped_release release;
      register_clouds<A, D>(tree, from.data(), from.shape(0), planes ? planes->data() : nullptr, options, result);
    }
    Points<double> rotation({D, D}), translation(D);
    std::copy_n(&result.motion.r[0][0], D * D, rotation.mutable_data());
    std::copy_n(result.motion.t, D, translation.mutable_data());
    return py::make_tuple(rotation, translation, result.rmse, result.fitness, result.iterations, result.converged);
  }

  std::variant<nearest_neighbors::Tree<float, 2>, nearest_neighbors::Tree<float, 3>,
               nearest_neighbors::Tree<double, 2>, nearest_neighbors::Tree<double, 3>>
      tree_;
};

}  // namespace

void bind_point_tree(py::module_& m) {
  py::class_<PointTree>(m, "PointTree", "A spatial index over points [n 2] or [n 3], float32 or float64, on the host.")
      .def(py::init<const py::array&>(), py::arg("points"))
      .def("__len__", &PointTree::size)
      .def("query", &PointTree::query, py::arg("query"), py::arg("k"), py::arg("max_distance"))
      .def("icp", &PointTree::icp, py::arg("source"), py::arg("target_normals"), py::arg("init_R"), py::arg("init_t"),
           py::arg("max_distance"), py::arg("max_iterations"), py::arg("tolerance"), py::arg("trim"));
}

}  // namespace zoo::icp
