"""The parts of `benchmarks/gpu.py`: what is checked and measured on a CUDA device. Every part also runs on a CPU, small."""
