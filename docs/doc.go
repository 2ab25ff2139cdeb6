// Package docs holds the project's pages, and tests that run the programs on
// them. It is a module of its own, since the pages show other libraries too.
package docs
