from tests.runner.judge import install

install()
