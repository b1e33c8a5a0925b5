declare module 'node-gyp-build' {
  /** Loads the addon built or prebuilt in this folder. */
  function load(folder: string): unknown
  namespace load {
    /** The file that it would load. */
    function resolve(folder: string): string
  }
  export = load
}
