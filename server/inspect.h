#ifndef SERVER_INSPECT_H
#define SERVER_INSPECT_H

/* `octavo inspect MODEL [--json] [--elements N]`: keys and tensors of a GGUF file. argv[0] is "inspect".
   Returns the process's exit code: 0, 1 (not a GGUF file that octavo reads) or 2 (usage). */
int inspect_main(int argc, char **argv);

#endif
