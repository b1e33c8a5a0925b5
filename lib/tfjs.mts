export * from './tfjs.js'
