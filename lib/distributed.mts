export * from './distributed.js'
