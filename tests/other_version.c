/* tests/other_version.c - a backend's module that was built with another version of the program: see test_deberta.c. */
#include "model/ops_module.h"

extern const OpsModule ops_module;
const OpsModule ops_module = {sizeof(Ops), "0.0.0", NULL};
