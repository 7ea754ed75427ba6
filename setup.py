"""What pyproject.toml cannot say: the folder `examples` is shipped within the package, as prefopt/examples."""

from setuptools import find_packages, setup

PARTS = ["", ".scripts", ".rounds", ".accelerate"]

setup(
    packages=[*find_packages(include=["prefopt*"]), *(f"prefopt.examples{part}" for part in PARTS)],
    package_dir={f"prefopt.examples{part}": f"examples{part.replace('.', '/')}" for part in PARTS},
)
