// How windows lie over images (N, D, H, W, C); images of fewer axes have axes of one cell in front. WINDOWS in
// windows.py is the same struct.
struct Windows {
  int size[3], out[3], kernel[3], stride[3], before[3], dilation[3];  // of D, H, W; `out`: how many windows

  __device__ int cells() const { return kernel[0] * kernel[1] * kernel[2]; }

  // Where cell k of window p lies along an axis; -1: in the padding.
  __device__ int cell(int axis, int p, int k) const {
    const int at = p * stride[axis] - before[axis] + k * dilation[axis];
    return at < size[axis] ? max(at, -1) : -1;
  }

  // The window whose cell k lies at a place of an axis; -1: there is none.
  __device__ int window(int axis, int at, int k) const {
    const int start = at + before[axis] - k * dilation[axis];
    if (stride[axis] == 1) return start < out[axis] ? max(start, -1) : -1;  // a division less
    if (start < 0 || start % stride[axis]) return -1;
    return start / stride[axis] < out[axis] ? start / stride[axis] : -1;
  }
};

// The line along W that belongs to a block (grid x): one of all those of N arrays of `sizes`.
struct Line {
  int n, d, h;
  __device__ explicit Line(const int (&sizes)[3])
      : n(blockIdx.x / (sizes[0] * sizes[1])), d(blockIdx.x / sizes[1] % sizes[0]), h(blockIdx.x % sizes[1]) {}
};

// step(place, w) for all channels of all places w of a line, shared among the blocks in grid y: channels in packs of 16
// bytes where `wide`, which whole packs have to make up.
template <typename T, typename Step>
__device__ void over_line(int places, int channels, bool wide, Step step) {
  constexpr int WIDTH = 16 / sizeof(T);
  const unsigned first = blockIdx.y * blockDim.x + threadIdx.x, threads = gridDim.y * blockDim.x;
  const unsigned across = wide ? channels / WIDTH : channels;
  for (unsigned i = first; i < places * across; i += threads) {
    if (wide) step(Place<WIDTH>{i % across * WIDTH}, static_cast<int>(i / across));
    else step(Place<1>{i % across}, static_cast<int>(i / across));
  }
}
