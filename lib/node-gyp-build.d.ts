declare module 'node-gyp-build' {
  /** Loads the addon built or prebuilt in this folder. */
  function load(folder: string): unknown
  export = load
}
