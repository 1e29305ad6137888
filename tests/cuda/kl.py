"""kl.py NAME P Q ROWS [MOST]: KL of two files of logits, fp32 [rows][vocabulary]. Status 1 when the mean exceeds MOST."""
import sys

import numpy as np


def log_softmax(path, rows):
    x = np.fromfile(path, np.float32).reshape(rows, -1).astype(np.float64)
    x -= x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


name, p, q, rows = sys.argv[1:5]
p, q = log_softmax(p, int(rows)), log_softmax(q, int(rows))
kl = (np.exp(p) * (p - q)).sum(1)
print(f"{name}: KL mean {kl.mean():.2e}, most {kl.max():.2e}; same first choice {(p.argmax(1) == q.argmax(1)).mean():.4f}")
if len(sys.argv) > 5 and not kl.mean() <= float(sys.argv[5]):
    sys.exit(f"{name}: the mean is above {sys.argv[5]}")
