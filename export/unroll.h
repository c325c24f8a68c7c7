/* export/unroll.h - UNROLL before a loop of a constant, small number of rounds: written out in full, so
 * that an array indexed by its counter stays in registers. */
#ifndef EXPORT_UNROLL_H
#define EXPORT_UNROLL_H

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#endif
