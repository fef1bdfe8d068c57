"""The programs that contend: each is started as `python -m bench.contenders.<name>` and prints its figures."""
