"""One thread for each test process and what it starts: several tests run at a time."""
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
