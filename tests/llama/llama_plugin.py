"""Nothing is downloaded for llama.cpp's tests: shim.py says which model stands for which."""
import os


def pytest_configure():
    import utils  # llama.cpp's
    os.makedirs("tmp", exist_ok=True)  # where its downloads would be
    utils.ServerPreset.load_all = staticmethod(lambda: None)
    utils.download_file = lambda url, output_file_path=None: output_file_path or url
