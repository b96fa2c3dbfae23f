// Package storetest holds what every implementation of store.Store must do. An implementation's test calls Run with a
// way to make an empty store for Schema; nothing in here knows how the store keeps its objects.
package storetest
