#ifndef SERVER_CALIBRATE_COMMAND_H
#define SERVER_CALIBRATE_COMMAND_H

/* `octavo calibrate MODEL [options]`: writes the side file (cache/calibration.h). argv[0] is
   "calibrate". Returns the process's exit code: 0, 1 (failed) or 2 (usage). */
int calibrate_command_main(int argc, char **argv);

#endif
