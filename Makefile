# Every target prepares what it needs first: a bare machine needs `make demo` or `make test` only.
SHELL := /bin/bash
IN := . workspace/env.sh &&

.PHONY: demo test test-qemu simulate bugs modelcheck chaos up lint shell bench peers clean prepare
demo: prepare     ## three robots elect, lock, discover, learn and survive (ARGS=--headless for machines)
	@$(IN) python -m muster.demo $(ARGS)
test: prepare     ## every test
	@$(IN) python -m pytest $(ARGS)
simulate: prepare ## search whole simulated clusters for a broken invariant (SEEDS=2000)
	@$(IN) python test/cluster/simulate.py $(SEEDS)
bugs: prepare     ## what catches each deliberate bug in the simulation
	@$(IN) python test/cluster/bugs.py
modelcheck: prepare ## every state of small clusters to a bounded depth (DEPTH=1: one step deeper)
	@$(IN) python test/cluster/modelcheck.py --depth $(or $(DEPTH),0)
chaos: prepare    ## real processes, killed and stopped at random under load (SECONDS=300)
	@$(IN) CHAOS_SECONDS=$(or $(SECONDS),300) python -m pytest -s -m long test/cluster/test_processes_chaos.py
test-qemu: prepare ## emulated devices plugged in and out of a virtual machine with a kernel of its own (ARGS=--udevd)
	@$(IN) python test/hardware/guest/run.py $(ARGS)
up: prepare       ## this machine as one robot, until Ctrl-C
	@$(IN) exec muster up $(ARGS)
lint: prepare     ## ruff, mypy and the ament linters
	@$(IN) ruff check . && mypy && ament_flake8 --config workspace/flake8.ini src/muster launch test benchmarks && ament_pep257 src/muster launch test benchmarks
shell: prepare    ## a shell with everything sourced
	@exec bash --rcfile <(echo '[ ! -f ~/.bashrc ] || . ~/.bashrc; . workspace/env.sh') -i
bench: prepare    ## every benchmark; results in benchmarks/results
	@$(IN) for area in benchmarks/bench_*.py; do python $$area || exit 1; done
bench-%: prepare  ## one area, as bench-cluster (ARGS=--help)
	@$(IN) python benchmarks/bench_$*.py $(ARGS)
peers:            ## what the benchmarks of learning compare with, in .peers (several GB, minutes)
	@workspace/peers.sh
prepare:
	@workspace/prepare.sh
clean:            ## remove all that was made here
	rm -rf .venv .peers .qemu build install log demo .pytest_cache .hypothesis .mypy_cache .ruff_cache .benchmarks
