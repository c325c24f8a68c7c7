/* model/real.h - the number that the model computes with: float, or double in the build that the
 * finite-difference tests link (ROUTER_DOUBLE is set for that whole library, nowhere else). */
#ifndef MODEL_REAL_H
#define MODEL_REAL_H

#ifdef ROUTER_DOUBLE
typedef double real;
#else
typedef float real;
#endif

#endif
