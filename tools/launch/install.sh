# uv brings a Python that is new enough; what is installed already is kept.
install() {
  export PATH="$HOME/.local/bin:$PATH" UV_TOOL_DIR="$PWD/tools" UV_TOOL_BIN_DIR="$PWD/bin"
  command -v uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  for _ in 1 2 3; do
    @@wheel
    uv tool install --python 3.12 @@requirement && return
    sleep "${POLL_SECONDS:-20}"
  done
  return 1
}
