/* core/stop.h - Ctrl-C and SIGTERM: the first asks long work to save and stop, the second ends the program.
 */
#ifndef CORE_STOP_H
#define CORE_STOP_H

#include <stdbool.h>

void stop_install(void);
bool stop_requested(void);

#endif
