from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "digits": ["scikit-learn>=1.2"],
    "export": ["onnx>=1.15", "onnxruntime>=1.16"],
    "fast": ["hotcoco>=1.3,<2"],  # scores the architectures of a search
    "predict": ["opencv-python-headless>=4.5.4.60"],  # in place of which any other OpenCV will do
    "slurm": ["submitit>=1.5", "cloudpickle>=2.2"],
}

# The lower bounds are in requirements-lowest.txt too, with which the package was tested.
# Detectron2 is missing from install_requires on purpose: it has no release under its own name, and
# users bring their own build.
setup(
    name="crnas_d2",
    version="0.1.0",
    description="Computation reallocation for object detection (CR-NAS) as a Detectron2 extension",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The crnas_d2 authors",
    license="Apache-2.0",
    project_urls={"Paper": "https://openreview.net/forum?id=SkxLFaNKwB"},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["crnas_d2*"]) + ["crnas_d2.configs"],
    py_modules=["crnas"],
    package_dir={"crnas_d2.configs": "configs"},
    package_data={
        "crnas_d2": ["py.typed"],
        "crnas_d2.configs": ["**/*.yaml", "**/*.py"],
        "crnas_d2.report": ["templates/*"],
    },
    entry_points={"console_scripts": ["crnas = crnas:main"]},
    install_requires=[
        "torch>=2.1",
        "torchvision>=0.16",
        "numpy>=1.23",
        "fvcore>=0.1.5.post20220305",
        "iopath>=0.1.7",
        "pycocotools>=2.0.6",
        "pillow>=9.1",
        "matplotlib>=3.7",
        "jinja2>=3.0",
        "scipy>=1.9",
        "safetensors>=0.4",
        "pyyaml>=6.0",
        "tabulate>=0.9",
        "tensorboard>=2.12",
        "tqdm>=4.64",
        "imagehash>=4.3.1",
    ],
    extras_require={
        **EXTRAS,
        "all": sorted(name for names in EXTRAS.values() for name in names),
        "test": [
            "pytest>=7.0",
            "pytest-xdist>=3.7",
            "packaging>=21.0",
            "setuptools>=70.1,<81",
            "timm>=0.9",
            "onnx>=1.15",
            "onnxscript>=0.1",
            "onnxruntime>=1.16",
            "playwright>=1.40",
            "submitit>=1.5",
            "cloudpickle>=2.2",
        ],
    },
)
