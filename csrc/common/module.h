// A Python module that says something about its build, by the limited API of Python 3.10.
#pragma once

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030a0000
#endif
#include <Python.h>

#include <string>
#include <utility>
#include <vector>

namespace zoo {

// The module with a string for each name; null, with Python's error set, where that fails.
inline PyObject* module_of_facts(PyModuleDef& definition,
                                 const std::vector<std::pair<const char*, std::string>>& facts) {
  PyObject* module = PyModule_Create(&definition);
  for (const auto& [name, value] : facts) {
    if (module != nullptr && PyModule_AddStringConstant(module, name, value.c_str()) != 0) {
      Py_DECREF(module);
      module = nullptr;
    }
  }
  return module;
}

}  // namespace zoo
