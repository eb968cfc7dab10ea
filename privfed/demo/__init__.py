"""The demo: twenty silos train one mixture on real data that none of them shows. `privfed demo` calls `run_demo`."""

from privfed.demo.options import DemoOptions
from privfed.demo.run import run_demo

__all__ = ["DemoOptions", "run_demo"]
